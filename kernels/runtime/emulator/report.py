"""What launches moved, as a table: which line asks for how much, and how much of it is waste.

A warp's load or store is one request. Of global memory it moves whole sectors of 32 bytes: 4 where
32 threads read 32 adjacent floats, 32 where they are scattered. Shared memory has 32 banks of 4
bytes: a request takes one wavefront (more for wide loads), or one more for each further word that
its lanes want of the same bank. Both are counted for each request; "best" is the fewest that its
bytes could have had. Time is not modelled, nor are caches.
"""

from collections.abc import Sequence
from typing import NamedTuple

from minillm.kernels.runtime.emulator.build import source_lines
from minillm.kernels.runtime.emulator.launch import Launched

_SPACES, _KINDS = ("global", "shared"), ("load", "store", "atomic")


class Row(NamedTuple):
    """Counts of one access in the source, or of all of a kind."""

    where: str
    what: str  # "global load"
    threads: int
    bytes: int  # that threads asked for
    requests: int  # by warps
    units: int  # sectors of global, wavefronts of shared memory
    best: int


def rows(log: Sequence[Launched]) -> dict[str, list[Row]]:
    """The counts of each kernel by source line, the costliest first."""
    kernels: dict[str, dict[tuple[str, str], Row]] = {}
    for launched in log:
        lines = [line for line in launched.lines if line.threads]
        places = source_lines(launched.file, [line.pc - launched.base for line in lines])
        of = kernels.setdefault(launched.kernel, {})
        for line, where in zip(lines, places):
            what = f"{_SPACES[line.space]} {_KINDS[line.kind]}"
            new = Row(
                where, what, line.threads, line.threads * line.size, line.requests, line.units,
                line.ideal,
            )  # fmt: skip
            of[where, what] = _sum(
                where, what, [of[where, what], new] if (where, what) in of else [new]
            )
    return {kernel: sorted(of.values(), key=lambda r: -r.units) for kernel, of in kernels.items()}


def totals(of: Sequence[Row]) -> list[Row]:
    """One row for each of global loads, global stores, shared loads, ..."""
    kinds = sorted({row.what for row in of})
    return [_sum("all", what, [row for row in of if row.what == what]) for what in kinds]


def _sum(where: str, what: str, of: Sequence[Row]) -> Row:
    return Row(where, what, *(sum(column) for column in list(zip(*of))[2:]))


def table(log: Sequence[Launched], by_line: bool = True) -> str:
    """The counts as text, a paragraph a kernel: each line's if `by_line`, and the totals."""
    counted = rows(log)
    places = [_short(row.where) for of in counted.values() for row in of if by_line]
    width = max(map(len, [*places, "line"]))
    out = []
    for kernel, of in counted.items():
        launches = sum(launched.kernel == kernel for launched in log)
        out.append(kernel + (f", {launches} launches" if launches > 1 else ""))
        out.append(
            f"  {'line':<{width}}  {'access':<13} {'requests':>10} {'bytes asked':>12}"
            f" {'sectors/waves':>13} {'a request':>9} {'best':>5} {'wasted':>7}"
        )
        for row in (of if by_line else []) + totals(of):
            each, best = row.units / row.requests, row.best / row.requests
            wasted = 1 - min(row.best / row.units, 1) if row.units else 0
            out.append(
                f"  {_short(row.where):<{width}}  {row.what:<13} {row.requests:>10,}"
                f" {row.bytes:>12,} {row.units:>13,} {each:>9.1f} {best:>5.1f} {wasted:>7.0%}"
            )
        out.append("")
    return "\n".join(out).rstrip()


def _short(where: str) -> str:
    """`layer_norm/v2_warp.cu:31` -> `v2_warp.cu:31`; a header's with the line that called it."""
    places = [place.rpartition("/")[2] for place in where.split(", called at ")]
    of_kernel = next((place for place in places if ".cu:" in place), places[0])
    return of_kernel if of_kernel == places[0] else f"{of_kernel} ({places[0]})"
