"""Draws schedules.svg: python tutorials/ch13_model_parallel/figure.py

When each of four stages works on eight micro-batches, with GPipe's schedule and with 1F1B's.
"""

import importlib.util
from pathlib import Path

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("model_parallel", HERE / "model_parallel.py")
work = importlib.util.module_from_spec(spec)
spec.loader.exec_module(work)

STAGES, MICRO_BATCHES = 4, 8
UNIT, ROW, LEFT = 19, 22, 60  # pixels: of time, of a stage, for the stages' names
COLOURS = {"forward": "#9ecae1", "backward": "#fdae6b"}


def gpipe(stage: int, stages: int, micro_batches: int) -> list:
    """All forward passes, then all backward passes."""
    return [(kind, i) for kind in COLOURS for i in range(micro_batches)]


def text(x: float, y: float, words: str, **style: str) -> str:
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:g}" y="{y:g}"{attributes}>{words}</text>'


parts, top = [], 8
for schedule, title in (
    (gpipe, "GPipe: all forward (blue), then all backward (orange)"),
    (work.schedule, "1F1B: one forward, one backward"),
):
    times, end = work.clock([schedule(s, STAGES, MICRO_BATCHES) for s in range(STAGES)])
    parts.append(text(LEFT, top + 12, title, font_weight="bold"))
    for s, row in enumerate(times):
        y = top + 20 + s * ROW
        parts.append(text(8, y + 14, f"stage {s}"))
        for start, kind, i in row:
            width = UNIT * (1 if kind == "forward" else 2)
            x = LEFT + UNIT * start
            box = f'x="{x}" y="{y}" width="{width - 1}" height="{ROW - 2}"'
            parts.append(f'<rect {box} fill="{COLOURS[kind]}"/>')
            parts.append(text(x + width / 2, y + 14, i, text_anchor="middle"))
    top += 20 + STAGES * ROW + 16
width, height = LEFT + UNIT * end + 8, top
(HERE / "schedules.svg").write_text(
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    f' font-family="sans-serif" font-size="11">\n<!-- figure.py, 2026-11-22 -->\n'
    f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n",
    encoding="utf-8",
)
