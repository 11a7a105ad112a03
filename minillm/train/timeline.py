"""From what the ranks noted (trace.py) to a timeline in Chrome's trace-event format, and a summary.

One process a rank, one thread a row:

    step             forward, backward, and the spans: data, optimizer, evaluate ...
    compute          each op, forward and backward
    exposed          communication while this rank does nothing else, and whom it waits for
    collectives      each from its start to its end; on further rows those that overlap it
    sends, receives  each message, with its part of the array; arrows lead from send to receive

Times are microseconds of rank 0's clock. The format: "Trace Event Format", Google 2016. All bars
are "complete" events (ph X), which on one row lie beside or inside one another, never across.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from minillm import env
from minillm.distributed.clocks import Offsets, to_rank_0
from minillm.distributed.messages import Message, pairs
from minillm.errors import UserError
from minillm.train.activity import (
    Interval,
    assign,
    base_of,
    exposed,
    halves,
    phases,
    receives,
    title,
    union,
    waits,
)
from minillm.train.trace import Noted

STEP, COMPUTE, EXPOSED = 1, 2, 3  # rows
COLLECTIVES, SENDS, RECEIVES = 10_000, 20_000, 30_000  # the first of several
_ROWS = {
    STEP: "step", COMPUTE: "compute", EXPOSED: "exposed communication",
    COLLECTIVES: "collectives", SENDS: "sends", RECEIVES: "receives",
}  # fmt: skip
NO_TRAINING = ("evaluate", "save")  # spans that do not count as time of a step

Event = dict[str, Any]


def write(path: Path, noted: Sequence[Noted], first: Offsets, last: Offsets) -> str:
    """Write the timeline of all ranks to `path`; returns the summary.

    Args:
        first, last: the clocks, measured before and after.

    Raises:
        UserError: the file cannot be written.
    """
    if not all(own.steps for own in noted):
        return "trace    nothing: the run had no whole step after those that are left out"
    launches = any(own.launches for own in noted)
    if launches:
        env.say_once("trace: ops ran on a GPU; their bars are launches, the work is done later")
    for rank, own in enumerate(noted):
        _shift(own, rank, first, last)
    error = max(*first.error, *last.error)
    about = {
        "clock": f"rank 0's; that of every other rank is known within {error * 1e6:.0f} us",
        "bars of ops": "launches on a GPU" if launches else "computation on the CPU",
    }
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events(noted))
    text = f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(about)}, "traceEvents": [\n'
    try:
        path.write_text(f"{text}{lines}\n]}}\n", encoding="utf-8")
    except OSError as problem:
        raise UserError(f"cannot write the trace {path}: {problem.strerror}") from None
    return summary(path, noted, error)


def _shift(noted: Noted, rank: int, first: Offsets, last: Offsets) -> None:
    """Times of `rank` to rank 0's clock, in place; what has no end ends with the last step."""

    def moved(seconds: float | None) -> float | None:
        return None if seconds is None else to_rank_0(rank, first, last, seconds)

    for name in ("steps", "spans", "ops"):
        setattr(noted, name, [(*r[:-2], moved(r[-2]), moved(r[-1])) for r in getattr(noted, name)])
    for call in noted.calls:
        call["began"], call["ended"] = moved(call["began"]), moved(call["ended"])
        if call["ended"] is None:
            call["ended"] = max(call["began"], noted.steps[-1][2])
    for message in noted.messages:
        for name in ("began", "ended", "waited", "used"):
            setattr(message, name, moved(getattr(message, name)))


class _Bars:
    """The bars of all ranks, as events."""

    def __init__(self, began: float):
        self.began = began  # the file's time 0
        self.events: list[Event] = []

    def add(self, rank: int, row: int, name: str, of: Interval, **args: Any) -> Event:
        start, end = (round((seconds - self.began) * 1e6, 3) for seconds in of)
        event = {"ph": "X", "pid": rank, "tid": row, "name": name, "ts": start}
        event |= {"dur": round(max(end - start, 0.0), 3)} | ({"args": args} if args else {})
        self.events.append(event)
        return event


def events(noted: Sequence[Noted]) -> list[Event]:
    """The trace events of all ranks."""
    bars = _Bars(min(own.steps[0][1] for own in noted))
    names: dict[int, str] = {}  # of arriving messages, by their id
    parts: dict[int, dict[str, Any]] = {}  # of messages sent
    for rank, own in enumerate(noted):
        _add_activity(bars, rank, own)
        of_call = assign(own)
        for row, call in lanes(own.calls, lambda c: (c["began"], c["ended"]), COLLECTIVES):
            args = {key: call[key] for key in ("array", "tag", "ranks", "source")}
            bars.add(rank, row, title(call), (call["began"], call["ended"]), **args)
            for half, of in halves(call, of_call[id(call)]):
                bars.add(rank, row, half, of)
            names |= {id(m): name for m, name in receives(call, of_call[id(call)])}
            base = base_of(call, of_call[id(call)])
            for m in of_call[id(call)]:
                if m.sends:
                    at = () if base is None else (m.address - base, m.address - base + m.nbytes)
                    part = {"part": "bytes {:,} to {:,}".format(*at)} if at else {}
                    parts[id(m)] = {"collective": title(call)} | part
    _add_messages(bars, noted, names, parts)
    order = sorted(bars.events, key=lambda event: (event["ts"], -event.get("dur", 0.0)))
    return [*_rows(order, len(noted)), *order]


def _add_activity(bars: _Bars, rank: int, own: Noted) -> None:
    """Rows of the main thread."""
    for number, *of in own.steps:
        bars.add(rank, STEP, f"step {number}", of)
    for name, *of in own.spans:
        bars.add(rank, STEP, name, of)
    for name, of in phases(own):
        bars.add(rank, STEP, name, of)
    for phase, name, *of in own.ops:
        bars.add(rank, COMPUTE, f"{name} {phase}", of)
    for of, whose in exposed(own):
        bars.add(rank, EXPOSED, whose, of)
    for of, peer in waits(own.messages):
        bars.add(rank, EXPOSED, f"waits for rank {peer}", of)


def _add_messages(
    bars: _Bars, noted: Sequence[Noted], names: dict[int, str], parts: dict[int, dict[str, Any]]
) -> None:
    """Rows of messages. Both ends have the name that the message has where it arrives."""
    other = {}
    both = pairs([own.messages for own in noted])
    for _, send, _, receive in both:
        other[id(send)], other[id(receive)] = receive, send
    ends: dict[int, Event] = {}
    for rank, own in enumerate(noted):
        stop = own.steps[-1][2]

        def times(m: Message, stop: float = stop) -> Interval:
            # A receive is posted ahead of time: nothing happens before its send begins.
            posted = other[id(m)].began if not m.sends and id(m) in other else m.began
            start = max(m.began, posted)
            return start, max(start, stop if m.ended is None else m.ended)

        for row, word, sends in ((SENDS, "to", True), (RECEIVES, "from", False)):
            for lane, m in lanes([m for m in own.messages if m.sends == sends], times, row):
                arrives, leaves = (other.get(id(m)), m) if sends else (m, other.get(id(m)))
                name = f"{names.get(id(arrives), 'message')} {word} rank {m.peer}"
                about = {"bytes": m.nbytes, "tag": m.tag} | parts.get(id(leaves), {})
                ends[id(m)] = bars.add(rank, lane, name, times(m), **about)
    for number, (_, send, _, receive) in enumerate(both):
        for ph, bar in (("s", ends[id(send)]), ("f", ends[id(receive)])):
            at = bar["ts"] + (bar["dur"] if ph == "f" else 0.0)
            arrow = {"ph": ph, "id": number, "name": "message", "cat": "message", "bp": "e"}
            arrow |= {"pid": bar["pid"], "tid": bar["tid"], "ts": round(at, 3)}
            bars.events.append(arrow)


def _rows(bars: Iterable[Event], ranks: int) -> list[Event]:
    """Names of processes and threads, and their order."""
    found: list[Event] = []

    def name(rank: int, row: int, kind: str, value: str, order: int) -> None:
        head = {"ph": "M", "pid": rank, "tid": row}
        found.append(head | {"name": f"{kind}_name", "args": {"name": value}})
        found.append(head | {"name": f"{kind}_sort_index", "args": {"sort_index": order}})

    for rank in range(ranks):
        name(rank, 0, "process", f"rank {rank}", rank)
    for rank, row in sorted({(event["pid"], event["tid"]) for event in bars}):
        first = row if row < COLLECTIVES else row // COLLECTIVES * COLLECTIVES
        name(rank, row, "thread", _ROWS[first] + f" {row - first + 1}" * (row > first), row)
    return found


def lanes(
    items: Iterable[Any], times: Callable[[Any], Interval], first: int
) -> list[tuple[int, Any]]:
    """Each item with a row, from `first` on, on which it overlaps nothing."""
    free: list[float] = []  # when the last bar of each row ends
    placed = []
    for item in sorted(items, key=lambda item: times(item)[0]):
        began, ended = times(item)
        lane = next((i for i, end in enumerate(free) if end <= began), len(free))
        free[lane : lane + 1] = [ended]
        placed.append((first + lane, item))
    return placed


def summary(path: Path, noted: Sequence[Noted], error: float) -> str:
    """What the trace shows, in words: exposed communication by rank, and where the time goes."""
    whole = [_seconds(own, [(own.steps[0][1], own.steps[-1][2])]) for own in noted]
    shares = [_seconds(own, [of for of, _ in exposed(own)]) / t for own, t in zip(noted, whole)]
    if len(noted) > 8:
        ordered = sorted(shares)
        each = f"{ordered[0]:.1%} to {ordered[-1]:.1%}, median {ordered[len(ordered) // 2]:.1%}"
    else:
        each = ", ".join(f"{share:.1%} on rank {rank}" for rank, share in enumerate(shares))
    spent: dict[str, list[Interval]] = defaultdict(list)
    total: dict[str, float] = defaultdict(float)
    for own in noted:
        spent.clear()
        for phase, name, *of in own.ops:
            spent[f"{name} {phase}"].append(of)
        for name, intervals in spent.items():
            total[name] += _seconds(own, intervals) / sum(whole)
    top = sorted(total, key=total.__getitem__, reverse=True)[:6]
    steps = noted[0].steps
    numbers = f"steps {steps[0][0]} to {steps[-1][0]}" if len(steps) > 1 else f"step {steps[0][0]}"
    lines = [
        f"trace    {numbers}, {whole[0] / len(steps) * 1e3:.1f} ms each: {path}"
        f" ({path.stat().st_size / 1e6:.1f} MB), to be opened in https://ui.perfetto.dev",
        f"         exposed communication, of a step: {each}",
        "         most time, of a step: " + ", ".join(f"{n} {total[n]:.1%}" for n in top),
    ]
    if len(noted) > 1:
        lines.append(f"         clocks of the ranks agree within {error * 1e6:.0f} us")
    return "\n".join(lines)


def _seconds(noted: Noted, intervals: Iterable[Interval]) -> float:
    """Time in steps, without evaluation and saving, of intervals of which none overlap."""
    apart = union((b, e) for name, b, e in noted.spans if name in NO_TRAINING)
    low, high = noted.steps[0][1], noted.steps[-1][2]
    inside = [(max(b, low), min(e, high)) for b, e in intervals]
    lost = sum(max(min(e, y) - max(b, x), 0.0) for b, e in inside for x, y in apart)
    return sum(max(e - b, 0.0) for b, e in inside) - lost
