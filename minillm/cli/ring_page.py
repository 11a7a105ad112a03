"""The page of `minillm ring-replay`: static drawings, and the data that its script moves.

In: a Replay. Out: one HTML file after the template ring_replay.html, in which {{name}} stands for
what is made here. Without scripts the chart, the steps and the table are all there.
"""

import json
from collections.abc import Iterable
from html import escape
from math import cos, pi, sin
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from minillm.train.timeline import lanes

if TYPE_CHECKING:
    from minillm.cli.ring_replay import Replay, Transfer

WIDTH, LEFT, RIGHT = 1100, 124, 24  # of the charts; room for names
_ROWS = ("sends", "receives", "core")


def page(replay: "Replay") -> str:
    """The whole file."""
    template = Path(__file__).with_name("ring_replay.html").read_text(encoding="utf-8")
    p, n = replay.ranks, replay.nbytes
    cores = f"{replay.cores} core{'s' * (replay.cores > 1)}"
    shares = f"{p} ranks share {cores}: they take turns, which no formula here knows."
    parts = {
        "title": f"Ring all-reduce of {n / 1e6:g} MB on {p} ranks",
        "chunks": f"{p} chunks of {_bytes(n / p)}"
        + (f", each in {replay.pieces} pieces" if replay.pieces > 1 else ""),
        "messages": f"{len(replay.transfers)}",
        "circle": circle(replay),
        "gantt": gantt(replay),
        "steps": steps(replay),
        "totals": totals(replay),
        "cores": shares if 0 < replay.cores < p else "",
        "error": f"{replay.clock_error * 1e6:.0f}",
        "data": json.dumps(data(replay), separators=(",", ":")).replace("<", "\\u003c"),
    }
    for name, text in parts.items():
        template = template.replace("{{" + name + "}}", text)
    return template


def data(replay: "Replay") -> dict:
    """For the script: times in microseconds."""
    us = lambda seconds: round(seconds * 1e6, 2)  # noqa: E731
    rows = [
        [t.source, t.dest, t.step, t.chunk, t.piece, t.nbytes, t.summed, us(t.posted),
         us(t.arrived), us(t.used)]
        for t in replay.transfers
    ]  # fmt: skip
    return {
        "ranks": replay.ranks, "pieces": replay.pieces, "total": us(max(replay.ended)),
        "predicted": [us(step) for step in predicted(replay)], "transfers": rows,
        "chart": [LEFT, WIDTH - RIGHT],
    }  # fmt: skip


def predicted(replay: "Replay") -> list[float]:
    """Seconds of each step, all links in use: latency + bytes / bandwidth, and adding."""
    chunk, link = replay.nbytes / replay.ranks, replay.busy
    adds = [link.adding * chunk] * (replay.ranks - 1) + [0.0] * (replay.ranks - 1)
    return [link.send(chunk) + add for add in adds]


def measured(replay: "Replay") -> list[float]:
    """Seconds of each step, the mean over ranks: from the end of the one before to its own, when
    the last piece is there and added. The last step of a rank ends with the all-reduce."""
    each = []
    for rank in range(replay.ranks):
        ends = [0.0] * (2 * replay.ranks - 2)
        for t in replay.transfers:
            if t.dest == rank:
                ends[t.step] = max(ends[t.step], t.used)
        ends[-1] = replay.ended[rank]
        each.append([b - a for a, b in zip([replay.began[rank], *ends], ends)])
    return [fmean(of) for of in zip(*each)]


def color(chunk: int, ranks: int) -> str:
    """Of a chunk: light enough for dark letters, strong enough on white."""
    return f"hsl({round(360 * chunk / ranks + 8) % 360} 72% {64 if chunk % 2 else 58}%)"


# --- drawings -------------------------------------------------------------------------------------


def circle(replay: "Replay") -> str:
    """The ranks around a ring, each with a wheel of what it has summed of every chunk so far."""
    p, middle, radius = replay.ranks, 280, 205
    wheel = min(54.0, 0.36 * 2 * pi * radius / p)
    out = [
        f'<svg id="circle" viewBox="0 0 {2 * middle} {2 * middle}" role="img"'
        f' aria-label="{p} ranks around a ring" data-radius="{radius}" data-wheel="{wheel:.1f}">',
        f'<circle class="track" cx="{middle}" cy="{middle}" r="{radius}"/>',
    ]
    for rank in range(p):
        a = 2 * pi * (rank + 0.5) / p - pi / 2
        x, y = middle + radius * cos(a), middle + radius * sin(a)
        out.append(f'<path class="arrow" d="M-5 -6L6 0L-5 6Z" transform="translate({x:.1f} {y:.1f})'
                   f' rotate({a * 180 / pi + 90:.1f})"/>')  # fmt: skip
    for rank in range(p):
        a = 2 * pi * rank / p - pi / 2
        x, y = middle + radius * cos(a), middle + radius * sin(a)
        out.append(f'<g transform="translate({x:.1f} {y:.1f})">'
                   f'<circle class="hub" r="{wheel:.1f}"/>')  # fmt: skip
        for chunk in range(p):
            out.append(
                f'<path class="sum" id="sum-{rank}-{chunk}" fill="{color(chunk, p)}"'
                f' d="{sector(chunk, p, 0.42 * wheel, wheel, 1 / p)}"/>'
            )
        out.append(f'<text class="rank" dy=".35em" font-size="{0.5 * wheel:.1f}">{rank}</text></g>')
    out.append('<g id="flying"></g></svg>')
    return "\n".join(out)


def sector(chunk: int, ranks: int, inner: float, outer: float, share: float) -> str:
    """The path of a chunk's part of a wheel, filled outwards to `share`."""
    a, b = (
        2 * pi * (chunk + i) / ranks - pi / 2 for i in (0.03 * ranks**0.5, 1 - 0.03 * ranks**0.5)
    )
    r = inner + (outer - inner) * share
    points = [(inner, a), (r, a), (r, b), (inner, b)]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = ((q * cos(t), q * sin(t)) for q, t in points)
    return (
        f"M{x0:.2f} {y0:.2f}L{x1:.2f} {y1:.2f}A{r:.2f} {r:.2f} 0 0 1 {x2:.2f} {y2:.2f}"
        f"L{x3:.2f} {y3:.2f}A{inner:.2f} {inner:.2f} 0 0 0 {x0:.2f} {y0:.2f}Z"
    )


def gantt(replay: "Replay") -> str:
    """A block of three rows a rank: sends, receives, and what its core does: adding, waiting."""
    p, total = replay.ranks, max(replay.ended)
    row = 24 if p <= 4 else 16 if p <= 8 else 11
    block = 3 * row + 12
    height = p * block + 34
    scale = (WIDTH - LEFT - RIGHT) / total
    out = [f'<svg id="gantt" viewBox="0 0 {WIDTH} {height}" role="img"'
           ' aria-label="Sends, receives and additions of each rank over time">']  # fmt: skip
    out += _axis(total, scale, height - 24)
    for rank in range(p):
        top = rank * block + 4
        out.append(
            f'<text class="name" x="4" y="{top + 1.5 * row:.1f}" dy=".35em">rank {rank}</text>'
        )
        for i, name in enumerate(_ROWS):
            y = top + i * row
            out.append(f'<text class="lane" x="{LEFT - 6}" y="{y + row / 2:.1f}" dy=".35em"'
                       f' font-size="{min(row - 1, 11)}">{name}</text>')  # fmt: skip
            for part in _lane(replay, rank, name):
                out.append(_bar(replay, part, LEFT, y, row - 2, scale))
    out.append(f'<path id="now" d="M{LEFT} 0V{height - 24}"/></svg>')
    return "\n".join(out)


# A bar: from, to, a share of the row's height and where in it, transfer, class, what it says.
_Bar = tuple[float, float, float, float, "Transfer", str, str]


def _lane(replay: "Replay", rank: int, row: str) -> Iterable[_Bar]:
    own = [t for t in replay.transfers if (t.source if row == "sends" else t.dest) == rank]
    if row == "core":
        for t in own:
            if t.waited is not None:
                yield t.waited, t.arrived, 0.4, 0.3, t, "wait", f"waits for rank {t.source}"
            if t.used > t.arrived:
                yield t.arrived, t.used, 1, 0, t, "add", f"adds chunk {t.chunk}"
        return

    def times(t: "Transfer") -> tuple[float, float]:
        return (t.posted, t.free) if row == "sends" else (max(t.due, t.posted), t.arrived)

    placed = lanes(own, times, 0)
    rows = max((lane for lane, _ in placed), default=0) + 1
    for lane, t in placed:
        way = f"to rank {t.dest}" if row == "sends" else f"from rank {t.source}"
        kind = "scatter" if t.step < replay.ranks - 1 else "gather"
        yield *times(t), 1 / rows, lane / rows, t, kind, f"chunk {t.chunk} {way}"


def _bar(replay: "Replay", bar: _Bar, left: float, y: float, row: float, scale: float) -> str:
    began, ended, share, place, t, kind, what = bar
    x, width = left + began * scale, max((ended - began) * scale, 0.7)
    fill = "" if kind == "wait" else f' fill="{color(t.chunk, replay.ranks)}"'
    piece = f", piece {t.piece}" if replay.pieces > 1 else ""
    says = (
        f"{what}{piece}, step {t.step + 1} of {2 * replay.ranks - 2}: {_bytes(t.nbytes)},"
        f" {seconds(began)} to {seconds(ended)}, {seconds(ended - began)}"
    )
    text = ""
    if width > 14 and row * share > 10 and kind != "wait":
        middle = y + row * (place + share / 2)
        text = (
            f'<text class="on" x="{x + width / 2:.1f}" y="{middle:.1f}" dy=".35em">{t.chunk}</text>'
        )
    return (
        f'<g class="{kind}"><title>{escape(says)}</title><rect x="{x:.1f}"'
        f' y="{y + row * place:.1f}" width="{width:.1f}" height="{row * share - 0.5:.1f}"'
        f' rx="1.5"{fill}/>{text}</g>'
    )


def steps(replay: "Replay") -> str:
    """Each step of the ring: a bar as long as it took, a mark where it was predicted to end."""
    took, expected = measured(replay), predicted(replay)
    row, p = 18, replay.ranks
    height = row * len(took) + 26
    longest = max(*took, *expected)
    scale = (WIDTH - LEFT - RIGHT - 180) / longest
    out = [f'<svg id="steps" viewBox="0 0 {WIDTH} {height}" role="img"'
           ' aria-label="Measured and predicted time of each step">']  # fmt: skip
    out += _axis(longest, scale, height - 22)
    for i, (a, b) in enumerate(zip(took, expected)):
        kind, y = ("add" if i < p - 1 else "spread"), i * row
        out.append(
            f'<text class="lane" x="{LEFT - 6}" y="{y + row / 2}" dy=".35em">{i + 1} {kind}</text>'
            f'<rect class="took {kind}" x="{LEFT}" y="{y + 3}" width="{max(a, 0) * scale:.1f}"'
            f' height="{row - 6}" rx="2"/>'
            f'<path class="expected" d="M{LEFT + b * scale:.1f} {y + 1}V{y + row - 1}"/>'
            f'<text class="value" x="{LEFT + max(a, b, 0) * scale + 8:.1f}" y="{y + row / 2}"'
            f' dy=".35em">{seconds(a)}, predicted {seconds(b)}</text>'
        )
    return "\n".join([*out, "</svg>"])


def totals(replay: "Replay") -> str:
    """Rows of the table: what the formula gives with each link, and what was measured."""
    rows = []
    for link, when in ((replay.busy, "all links in use"), (replay.alone, "one link in use")):
        figures = (
            seconds(link.latency), f"{link.bandwidth / 1e9:.2f} GB/s",
            f"{1e-9 / link.adding:.1f} GB/s" if link.adding else "-",
            seconds(link.ring(replay.ranks, replay.nbytes)),
        )  # fmt: skip
        cells = "".join(f"<td>{figure}</td>" for figure in figures)
        rows.append(f"<tr><th>predicted, {when}</th>{cells}</tr>")
    rows.append(f'<tr class="measured"><th>measured</th><td></td><td></td><td></td>'
                f"<td>{seconds(max(replay.ended))}</td></tr>")  # fmt: skip
    return "\n".join(rows)


def _axis(total: float, scale: float, bottom: float) -> list[str]:
    """Lines and names of round times."""
    return [
        f'<path class="grid" d="M{LEFT + at * scale:.1f} 0V{bottom}"/><text class="tick"'
        f' x="{LEFT + at * scale:.1f}" y="{bottom + 16}">{seconds(at)}</text>'
        for at in ticks(total)
    ]


def ticks(total: float) -> list[float]:
    """About eight round times from 0 to `total`."""
    step = 1e-9
    while total / step > 9:
        step *= 2.5 if f"{step:e}"[0] == "2" else 2  # 1, 2, 5, 10
    return [i * step for i in range(int(total / step) + 1)]


def seconds(value: float) -> str:
    """A time with three digits and a unit."""
    if value == 0:
        return "0"
    if abs(value) >= 1:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if abs(value) >= 1e-3 else f"{value * 1e6:.3g} us"


def _bytes(n: float) -> str:
    return f"{n / 1e6:.3g} MB" if n >= 1e6 else f"{n / 1e3:.3g} kB" if n >= 1e3 else f"{n:.0f} B"
