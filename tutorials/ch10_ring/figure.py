"""Draws ring.svg from a real ring all-reduce of four ranks: who is in which sum after each step.

python tutorials/ch10_ring/figure.py        writes tutorials/ch10_ring/ring.svg
"""

from pathlib import Path

import numpy as np
from ring import chunk, exchange

from minillm.distributed import run_threads

P, CELL = 4, 32
PANEL = P * CELL + 34, P * CELL + 58
SHADES = {1: "#eef3f8", 2: "#c5d8ea", 3: "#8db4d8", 4: "#3b78b0"}
LEGEND = (
    "rows: ranks; columns: chunks",
    "in a cell: the ranks whose",
    "numbers are in the chunk",
    "framed: what the rank sends next,",
    "to the rank below it; the last one",
    "sends to the first",
)


def states(comm):
    """(label, this rank's array, the chunk it sends next) before and after each step."""
    p, r = comm.size, comm.rank
    left, right = (r - 1) % p, (r + 1) % p
    array = np.repeat(10**r, p)  # digit k of a sum says whether rank k is in it
    seen = [("start", array.copy(), (r - 1) % p)]
    for s in range(2 * (p - 1)):
        came = array[chunk(p, p, r - 2 - s)]
        arrived = np.empty_like(came)
        exchange(comm, array[chunk(p, p, r - 1 - s)], right, arrived, left)
        came[...] = came + arrived if s < p - 1 else arrived
        following = (r - 2 - s) % p if s < 2 * (p - 1) - 1 else None
        phase = "reduce-scatter" if s < p - 1 else "all-gather"
        seen.append((f"after step {s}, {phase}", array.copy(), following))
    return seen


def text(x, y, words, **style):
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x}" y="{y}"{attributes}>{words}</text>'


def panel(ranks, i, x, y):
    """The state of all ranks after step i - 1, its upper left corner at x, y."""
    out = [text(x + P * CELL / 2, y, ranks[0][i][0], fill="#333")]
    out += [text(x + (c + 0.5) * CELL, y + 16, c, fill="#777", font_size=9) for c in range(P)]
    for rank in range(P):
        _, array, sends = ranks[rank][i]
        top = y + 20 + rank * CELL
        out.append(text(x - 8, top + CELL / 2 + 4, rank, fill="#777", font_size=9))
        for c in range(P):
            members = [str(k) for k in range(P) if int(array[c]) // 10**k % 10]
            frame = ' stroke="#d2691e" stroke-width="2"' if c == sends else ""
            left, fill = x + c * CELL, SHADES[len(members)]
            out.append(
                f'<rect x="{left + 1}" y="{top + 1}" width="{CELL - 2}" height="{CELL - 2}"'
                f' fill="{fill}"{frame}/>'
            )
            words, ink = ("all", "white") if len(members) == P else ("".join(members), "#333")
            out.append(text(left + CELL / 2, top + CELL / 2 + 4, words, fill=ink))
    return out


def main():
    ranks = run_threads(P, states)
    width, height = 24 + 4 * PANEL[0], 20 + 2 * PANEL[1]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="11" text-anchor="middle">',
        "<title>A ring all-reduce of four ranks, drawn by figure.py, 2026-11-22</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i in range(len(ranks[0])):
        column, row = (i, 0) if i < P else (i - P + 1, 1)
        out += panel(ranks, i, 24 + column * PANEL[0], 20 + row * PANEL[1])
    y = 20 + PANEL[1] + 36
    out += [
        text(6, y + 17 * k, line, fill="#555", font_size=9, text_anchor="start")
        for k, line in enumerate(LEGEND)
    ]
    out.append("</svg>\n")
    Path(__file__).with_name("ring.svg").write_text("\n".join(out), encoding="utf-8")


if __name__ == "__main__":
    main()
