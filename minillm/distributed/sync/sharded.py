"""What strategies share that split the update over ranks: which part is whose, and the whole of it.

Rank r of p updates elements r n / p to (r + 1) n / p of each stretch of n parameters, as ring.chunk
cuts them, and keeps the optimiser's state for those alone: n / p numbers instead of n.
"""

import numpy as np

from minillm.distributed.sync.base import Strategy, over
from minillm.distributed.tree import reduce
from minillm.optim import ParamGroup


class Sharded(Strategy):
    """A Strategy whose `optimizer` is sharded: each element is updated by one rank."""

    def own(self, part: slice, rank: int | None = None) -> slice:
        """What this rank, or another one, updates of a stretch of a flat array."""
        n, p, r = part.stop - part.start, self.comm.size, self.comm.rank if rank is None else rank
        return slice(part.start + r * n // p, part.start + (r + 1) * n // p)

    def total(self, squares: float) -> float:
        return super().total(over(self.comm, squares))

    def flat_state(self, group: ParamGroup, name: str) -> np.ndarray:
        array = np.array(group.flat_state(name))  # a copy: reduce leaves partial sums in it
        reduce(self.comm, array)  # zeros but for the own parts
        return array
