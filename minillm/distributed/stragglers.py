"""Which rank the others wait for again and again: one that is slow, not one that hangs.

In: what all ranks say of themselves, at each look of the watchdog. Out: a line, once a rank.
"""

from collections import Counter, deque

from minillm.distributed.observer import State

_LOOKS = 20  # at all ranks, in 2 to 10 seconds


class Stragglers:
    """Counts whom others wait for.

    At each look the chain of waits is followed to its end. Only looks between which collectives
    have begun count: one long wait, as for rank 0 that compiles first, is one look.
    """

    def __init__(self) -> None:
        self._ends: deque[int | None] = deque(maxlen=_LOOKS)
        self._begun = 0
        self._named: set[int] = set()

    def look(self, states: dict[int, State]) -> str:
        """Words on a rank that the others waited for at most looks, once; else nothing."""
        begun = sum(call[1] for state in states.values() for call in state["calls"][-1:])
        if begun == self._begun:
            return ""
        self._begun = begun
        waits = {rank: state["blocked"] for rank, state in states.items() if state["blocked"]}
        end = next(iter(waits), None)
        for _ in waits:
            end = waits[end][0] if end in waits else end
        self._ends.append(None if end in waits else end)
        if len(self._ends) < _LOOKS:
            return ""
        counts = Counter(end for end in self._ends if end is not None).most_common(2)
        worst, most = counts[0] if counts else (None, 0)
        if worst in self._named or most < _LOOKS / 2 or any(most < 3 * n for _, n in counts[1:]):
            return ""
        self._named.add(worst)
        return (
            f"rank {worst} is slow: others waited for it at {most} of the last {_LOOKS} looks."
            " Another program on its host, or a slower core? --balance dynamic gives it less to do"
        )
