"""Draws timeline.svg, one step of a real run on two ranks, from its trace:

mpirun -n 2 python train.py --steps 12 --bucket_mb 0.5 --sample_tokens 0 --trace --out runs/traced
python tutorials/ch11_data_parallel/timeline.py runs/traced/trace.json
"""

import json
import sys
from pathlib import Path

PHASES = {"forward": "#c5d8ea", "backward": "#8db4d8", "finish sums": "#e8a87c",
          "optimizer": "#cfcfcf"}  # fmt: skip
SUM, EXPOSED = "#7fb77e", "#c8553d"
LEFT, WIDTH, ROW = 96, 640, 18


def load(path):
    """Bars by rank and row name; bars are (name, began, ended) in ms."""
    events = json.loads(Path(path).read_text())
    events = events["traceEvents"] if isinstance(events, dict) else events
    rows = {
        (e["pid"], e["tid"]): e["args"]["name"].rstrip(" 0123456789")
        for e in events
        if e["name"] == "thread_name"
    }
    bars = {}
    for e in events:
        if e["ph"] == "X":
            bar = e["name"], e["ts"] / 1e3, (e["ts"] + e["dur"]) / 1e3
            bars.setdefault((e["pid"], rows[e["pid"], e["tid"]]), []).append(bar)
    return bars


def one_step(bars):
    """The step of the median time, as (began, ended)."""
    steps = [b for b in bars[0, "step"] if b[0].startswith("step")]
    _, began, ended = sorted(steps, key=lambda b: b[2] - b[1])[len(steps) // 2]
    return began, ended


def draw(bars):
    began, ended = one_step(bars)
    scale = WIDTH / (ended - began)
    ranks = sorted({rank for rank, _ in bars})
    out, y = [], 24

    def bar(start, stop, fill, height=ROW - 4, title=""):
        start, stop = max(start, began), min(stop, ended)
        if stop > start:
            out.append(
                f'<rect x="{LEFT + (start - began) * scale:.1f}" y="{y}"'
                f' width="{max((stop - start) * scale, 0.6):.1f}" height="{height}" fill="{fill}">'
                f"<title>{title} {stop - start:.1f} ms</title></rect>"
            )

    def label(text):
        out.append(f'<text x="{LEFT - 6}" y="{y + ROW - 8}" text-anchor="end">{text}</text>')

    for rank in ranks:
        label(f"rank {rank}")
        for name, start, stop in bars[rank, "step"]:
            if name in PHASES:
                bar(start, stop, PHASES[name], title=name)
        y += ROW
        sums = sorted(
            {
                b
                for b in bars[rank, "collectives"]
                if b[0].startswith("all_reduce") and "kB" in b[0]
            },
            key=lambda b: b[1],
        )
        sums = [b for b in sums if began <= b[1] < ended]
        for i, (name, start, stop) in enumerate(sums):
            label(f"bucket {i}")
            bar(start, stop, SUM, 9, name)
            y += 12
        label("exposed")
        for name, start, stop in bars.get((rank, "exposed communication"), []):
            if name.startswith("all_reduce"):
                bar(start, stop, EXPOSED, 9, name)
        y += 28
    legend = [*PHASES.items(), ("sum of a bucket", SUM), ("nothing but communication", EXPOSED)]
    x = LEFT
    for name, fill in legend:
        out.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{fill}"/>')
        out.append(f'<text x="{x + 14}" y="{y + 9}">{name}</text>')
        x += 30 + 6 * len(name)
    out.append(f'<text x="{LEFT}" y="14">one step of two ranks, {ended - began:.0f} ms</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 10} {y + 18}"'
        ' font-family="sans-serif" font-size="10" fill="#333">'
        "<title>A training step of two ranks, drawn by timeline.py, 2026-11-22</title>"
        f'<rect width="{LEFT + WIDTH + 10}" height="{y + 18}" fill="white"/>'
    )
    return "\n".join([head, *out, "</svg>\n"])


if __name__ == "__main__":
    svg = draw(load(sys.argv[1]))
    Path(__file__).with_name("timeline.svg").write_text(svg, encoding="utf-8")
