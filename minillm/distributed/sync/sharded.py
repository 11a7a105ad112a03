"""What strategies share that split the update over ranks: which part is whose, and the whole of it.

Rank r of p updates its span of each stretch of n parameters, and keeps the optimiser's state for
that alone: n / p numbers instead of n.
"""

import numpy as np

from minillm.distributed.spans import span
from minillm.distributed.sync.base import Strategy, over
from minillm.distributed.tree import reduce
from minillm.optim import ParamGroup


class Sharded(Strategy):
    """A Strategy whose `optimizer` is sharded: each element is updated by one rank."""

    def own(self, part: slice) -> slice:
        """What this rank updates of a stretch of a flat array: ring.chunk of it."""
        mine = span(part.stop - part.start, self.comm.rank, self.comm.size)
        return slice(part.start + mine.start, part.start + mine.stop)

    def total(self, squares: float) -> float:
        return super().total(over(self.comm, squares))

    def flat_state(self, group: ParamGroup, name: str) -> np.ndarray:
        array = np.array(group.flat_state(name))  # a copy: reduce leaves partial sums in it
        reduce(self.comm, array)  # zeros but for the own parts
        return array
