"""Who keeps the others waiting: from what each rank says of itself to a verdict in words.

In: by rank, what it last said (observer.py) and when that was heard. Out: None while
all is well, else a Verdict: the ranks to blame, one line that says why, a table of all ranks.

    mismatch   two ranks' collective of the same number differs in name, shape or dtype. The few are
               to blame; of two equal halves, both. Reported as soon as it is seen
    gone       a rank's connection has ended, though it had not said that it would. At once
    late       a rank has waited over `seconds` for one message. From each rank to the one it waits
               for, the chain ends at one that waits for nobody: that is to blame, provided that
               it has stood still, or said nothing, for `seconds` too. One that works (compiles,
               evaluates) or has said that it is busy has PATIENCE times as long, at least WORK
               seconds; from one that says nothing nothing follows for SILENT seconds: on a loaded
               core it may wait so long
    deadlock   the chain comes back to where it began: of its ranks, those that are in another
               collective than most are to blame, or all. After 2 seconds
"""

from dataclasses import dataclass
from math import inf

from minillm.distributed.observer import State

PATIENCE, WORK, SILENT = 10, 120.0, 5.0
_CYCLE = 2.0  # seconds; after that, no message is on its way any more


@dataclass
class Verdict:
    """What is wrong.

    Attributes:
        kind: "mismatch", "gone", "late" or "deadlock".
        ranks: those to blame.
        line: why, in words.
    """

    kind: str
    ranks: list[int]
    line: str


def diagnose(
    states: dict[int, State], silent: dict[int, float], gone: list[int], seconds: float
) -> Verdict | None:
    """What is wrong, if anything.

    Args:
        states: by rank, what it last said.
        silent: by rank, seconds since then.
        gone: ranks whose connection has ended without a word.
        seconds: longest wait.
    """
    if gone:
        rank = gone[0]
        line = f"rank {rank} is gone, killed or crashed"
        if rank in states:
            line += f"; {silent[rank]:.1f} s ago it {past(states[rank])}"
        return Verdict("gone", gone, line)
    return mismatch(states) or _late(states, silent, seconds)


def mismatch(states: dict[int, State]) -> Verdict | None:
    """Whether two ranks know different collectives under the same number."""
    known: dict[tuple[str, int], dict[str, list[int]]] = {}
    for rank, state in sorted(states.items()):
        for label, number, what, _ in state["calls"]:
            known.setdefault((label, number), {}).setdefault(what, []).append(rank)
    for (label, number), kinds in sorted(known.items(), key=lambda item: item[0][1]):
        if len(kinds) == 1:
            continue
        (few, ranks), *others = sorted(kinds.items(), key=lambda kind: len(kind[1]))
        if len(others[0][1]) == len(ranks):  # no majority
            ranks = sorted(rank for each in kinds.values() for rank in each)
        said = [f"{ranks_in_words(each)} {_be(each)} in {what}" for what, each in others]
        line = (
            f"collective #{number} is not the same on all ranks: {ranks_in_words(kinds[few])}"
            f" {_be(kinds[few])} in {few} ({_source(states[kinds[few][0]], label, number)}),"
            f" {', '.join(said)} ({_source(states[others[0][1][0]], label, number)})"
        )
        return Verdict("mismatch", ranks, line)
    return None


def _late(states: dict[int, State], silent: dict[int, float], seconds: float) -> Verdict | None:
    waits = {
        rank: state["blocked"][1] + silent[rank]
        for rank, state in states.items()
        if state["blocked"] and silent[rank] < max(1.0, seconds / 2)
    }
    if not waits:
        return None
    first = rank = max(waits, key=lambda rank: waits[rank])
    chain = []
    while rank in waits and rank not in chain:
        chain.append(rank)
        rank = states[rank]["blocked"][0]
        if rank is None:  # in a collective of MPI's own, which does not say for whom
            rank = next((other for other in states if other not in waits), first)
    waiting = [r for r in sorted(waits) if r != rank]
    if rank in chain:
        return _deadlock(states, sorted(chain[chain.index(rank) :]), silent, seconds)
    if waits[first] < seconds:
        return None
    missing = _in(states[chain[-1]])
    state, quiet = states.get(rank), silent.get(rank, inf)
    if state is None:
        doing = "it has said nothing so far"
    else:
        if 1 < quiet < SILENT:
            return None
        stood = 0.0 if state["busy"] else state["still"] + quiet
        if stood < seconds and waits[first] < max(seconds * PATIENCE, WORK):
            return None
        doing = _doing(state, quiet)
    there = state is not None and _in(state) == missing
    line = f"rank {rank} {'does not go on in' if there else 'is not in'} {missing}"
    return Verdict(
        "late", [rank], f"{line}, where {ranks_in_words(waiting)} {_wait(waiting)}: it {doing}"
    )


def _deadlock(
    states: dict[int, State], cycle: list[int], silent: dict[int, float], seconds: float
) -> Verdict | None:
    """The verdict on ranks that wait for one another, once it cannot be old news of any of them."""
    least = min(_CYCLE, seconds)
    if any(silent[r] > 1 or states[r]["blocked"][1] < least for r in cycle):
        return None
    places: dict[str, list[int]] = {}
    for r, state in sorted(states.items()):
        if state["blocked"]:
            places.setdefault(_in(state), []).append(r)
    most, majority = max(places.items(), key=lambda place: len(place[1]))
    few = [r for r in cycle if r not in majority]
    if not few or 2 * len(majority) <= sum(map(len, places.values())):
        words = "; ".join(f"rank {r} {_doing(states[r], 0.0)}" for r in cycle)
        return Verdict("deadlock", cycle, f"{ranks_in_words(cycle)} wait for one another: {words}")
    said = [f"rank {r} is in {_in(states[r])} ({_at(states[r])})" for r in few]
    line = (
        f"{', '.join(said)}, but {ranks_in_words(majority)} {_wait(majority)} in {most}"
        f" ({_at(states[majority[0]])}): for one another"
    )
    return Verdict("deadlock", few, line)


def table(states: dict[int, State], silent: dict[int, float], size: int) -> str:
    """All ranks: the collective, whom it waits for and since when, where its program stands."""
    rows = [("rank", "collective", "waits for", "since", "stands at")]
    for rank in range(size):
        if rank not in states:
            rows.append((str(rank), "unknown", "", "", ""))
            continue
        state = states[rank]
        if state["in"]:
            what = _words(state["in"])
        else:
            what = f"none since {_words(state['calls'][-1])}" if state["calls"] else "none so far"
        peer, since = state["blocked"] or ("", state["still"])
        waits = "all" if peer is None else f"rank {peer}" if state["blocked"] else "nobody"
        since = f"{since + silent[rank]:.1f} s"
        if silent[rank] > 1:
            since += f", silent {silent[rank]:.1f} s"
        where = _at(state) if state["blocked"] else state["where"]
        rows.append((str(rank), what, waits, since, where))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[4]]) for row in rows
    )


def _at(state: State) -> str:
    return state["in"][3] if state["in"] else state["where"]


def _in(state: State) -> str:
    return _words(state["in"]) if state["in"] else "an exchange of messages"


def _words(call: list) -> str:
    label, number, what = call[:3]
    name, of, rest = what.partition(" of ")
    group = f" among ranks {label.rstrip(';').partition(':')[2]}" if label else ""
    return f"{name} #{number}{of}{rest}{group}"


def _source(state: State, label: str, number: int) -> str:
    return next(call[3] for call in state["calls"] if call[:2] == [label, number])


def _doing(state: State, quiet: float) -> str:
    """What follows "it"."""
    if state["blocked"]:
        peer, since = state["blocked"]
        whom = "all" if peer is None else f"rank {peer}"
        doing = f"waits for {whom} in {_in(state)} at {_at(state)} for {since:.1f} s"
    elif state["busy"]:
        doing = f"is busy {state['busy']} at {state['where']}"
    else:
        doing = f"stands at {state['where']} for {state['still']:.1f} s"
    if quiet > 1:
        why = "stopped, or in C code that keeps Python's lock"
        return f"is silent for {quiet:.1f} s, {why}; before, it {_past(doing)}"
    return doing


def past(state: State) -> str:
    """What it was doing, after "it"."""
    return _past(_doing(state, 0.0))


def _past(doing: str) -> str:
    verb, _, rest = doing.partition(" ")
    return f"{dict(waits='waited', stands='stood', **{'is': 'was'})[verb]} {rest}"


def ranks_in_words(ranks: list[int]) -> str:
    words = [str(rank) for rank in ranks]
    if len(words) == 1:
        return f"rank {words[0]}"
    return f"ranks {', '.join(words[:-1])} and {words[-1]}"


def _be(ranks: list[int]) -> str:
    return "is" if len(ranks) == 1 else "are"


def _wait(ranks: list[int]) -> str:
    return "waits" if len(ranks) == 1 else "wait"
