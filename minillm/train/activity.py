"""What a rank's notes (trace.py) mean: phases of a step, what each message is part of, when a rank
did nothing but communicate.

Exposed is a stretch of the main thread between two ops or spans in which it waits for a message:
the waiting, and what else it does there inside a collective, which is to add what has come.

Messages belong to the collective with their tag in whose time they were posted. What arrives in the
array itself replaces, so it is part of an all-gather; what arrives elsewhere is there to be added.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from minillm.distributed.messages import Message
from minillm.train.trace import Noted

Call = dict[str, Any]  # as trace.py makes it
Interval = tuple[float, float]


def phases(noted: Noted) -> list[tuple[str, Interval]]:
    """Ops in a row of the same phase, as one bar: forward, backward; cut where a span or a step
    begins or ends."""
    cuts = sorted({t for _, *of in (*noted.spans, *noted.steps) for t in of})
    runs: list[tuple[str, int, list[float]]] = []
    for phase, _, began, ended in noted.ops:
        part = bisect_right(cuts, began)
        if runs and runs[-1][:2] == (phase, part):
            runs[-1][2][1] = ended
        else:
            runs.append((phase, part, [began, ended]))
    return [(phase, (of[0], of[1])) for phase, _, of in runs]


def waits(messages: Iterable[Message]) -> list[tuple[Interval, int]]:
    """When the rank waited for a message, and of whom."""
    found = {m.waited: ((m.waited, m.ended), m.peer) for m in messages if m.waited and m.ended}
    return [found[began] for began in sorted(found)]


def exposed(noted: Noted) -> list[tuple[Interval, str]]:
    """When this rank did nothing but communicate, and for what; in order, none overlapping."""
    edges = sorted({t for r in (*noted.ops, *noted.spans, *noted.steps) for t in r[-2:]})
    by_gap: dict[int, list[Interval]] = defaultdict(list)
    for of, _ in waits(noted.messages):
        by_gap[bisect_right(edges, of[0])].append(of)
    calls = sorted(noted.calls, key=lambda call: call["began"])
    starts = [call["began"] for call in calls]
    longest = max((call["ended"] - call["began"] for call in calls), default=0.0)
    found = []
    for gap, waited in by_gap.items():
        low = edges[gap - 1] if gap else waited[0][0]
        high = edges[gap] if gap < len(edges) else waited[-1][1]
        near = calls[bisect_right(starts, low - longest) : bisect_right(starts, high)]
        inside = [(max(c["began"], low), min(c["ended"], high)) for c in near]
        for of in union([i for i in inside if i[1] > i[0]] + waited):
            if any(of[0] <= wait[0] < of[1] for wait in waited):
                first = next((c for c in near if c["began"] <= of[1] and c["ended"] > of[0]), None)
                found.append((of, title(first) if first else "messages"))
    return sorted(found)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same times, as intervals that do not touch."""
    joined: list[Interval] = []
    for began, ended in sorted(intervals):
        if joined and began <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], ended)
        else:
            joined.append((began, ended))
    return joined


def title(call: Call) -> str:
    """A collective in a word or three."""
    size = f" {_size(call['bytes'])}" if call["bytes"] else ""
    return f"{call['name']} #{call['number']}{size}"


def _size(nbytes: float) -> str:
    for unit, one in (("MB", 1e6), ("kB", 1e3)):
        if nbytes >= one:
            return f"{nbytes / one:.3g} {unit}"
    return f"{nbytes:.0f} B"


def assign(noted: Noted) -> dict[int, list[Message]]:
    """By the id of each collective, its messages: those with its tag in its time. Of collectives
    inside others, the inner one has them."""
    by_tag: dict[int, list[Call]] = defaultdict(list)
    for call in sorted(noted.calls, key=lambda call: call["began"]):
        by_tag[call["tag"]].append(call)
    found: dict[int, list[Message]] = {id(call): [] for call in noted.calls}
    for message in noted.messages:
        calls = by_tag[message.tag]
        last = bisect_right(calls, message.began, key=lambda call: call["began"])
        for call in reversed(calls[max(last - 8, 0) : last]):
            if message.began <= call["ended"]:
                found[id(call)].append(message)
                break
    return found


def receives(call: Call, messages: list[Message]) -> list[tuple[Message, str]]:
    """The messages that arrive in a collective, each with a name: "reduce-scatter 2"."""
    base = base_of(call, messages)
    own = [m for m in messages if not m.sends]
    whats = [call["name"].replace("_", "-")] * len(own)
    if call["name"] == "all_reduce" and base is not None:
        whats = ["all-gather" if _inside(m, base, call) else "reduce-scatter" for m in own]
    counts: dict[str, int] = defaultdict(int)
    found = []
    for m, what in zip(own, whats):
        counts[what] += 1
        found.append((m, f"{what} {counts[what]}"))
    return found


def base_of(call: Call, messages: list[Message]) -> int | None:
    """Where in memory the array begins, where all of it is sent, or, in an all-gather, sent or
    received; None where messages come from buffers, and so from anywhere."""
    gathers = call["name"] == "all_gather"
    own = [m for m in messages if m.sends or gathers]
    low = min((m.address for m in own), default=0)
    high = max((m.address + m.nbytes for m in own), default=0)
    if not own or high - low != call["bytes"]:
        return None
    if call["name"] == "all_reduce":  # then some of it comes back to where it was
        known = any(not m.sends and _inside(m, low, call) for m in messages)
        return low if known else None
    return low


def _inside(message: Message, base: int, call: Call) -> bool:
    return base <= message.address < base + call["bytes"]


def halves(call: Call, messages: list[Message]) -> list[tuple[str, Interval]]:
    """An all-reduce's two parts: reduce-scatter until all is added that comes to be, all-gather."""
    base = base_of(call, messages)
    if call["name"] != "all_reduce" or base is None:
        return []
    added = [m.used or m.ended for m in messages if not m.sends and not _inside(m, base, call)]
    middle = min(max((t for t in added if t is not None), default=call["began"]), call["ended"])
    return [
        ("reduce-scatter", (call["began"], middle)), ("all-gather", (middle, call["ended"])),
    ]  # fmt: skip
