"""How many samples of the global batch each rank takes, so that none waits for a slower one.

In: how long each rank takes for a sample. Out: shares of the batch of B samples. With c_r seconds a
sample and shares b_r, ranks compute for c_r b_r seconds and a step takes the longest of these, at
best, with shares in proportion to the speeds v_r = 1 / c_r,

    max_r c_r b_r  >=  B / sum_r v_r        against  B / (p min_r v_r)  of equal shares

    "equal"     rank r takes samples [B r / p, B (r + 1) / p)
    "static"    in proportion to speeds that were measured once, before the start
    "dynamic"   in proportion to speeds measured in the last steps: for machines whose speed
                changes, because others use them, too (Chen et al. 2020, "Semi-dynamic load
                balancing: efficient distributed learning in non-dedicated environments")

The gradient stays exact: each loss is divided by the tokens of all ranks before gradients are
summed (ddp.py), so it does not matter who computes which sample. But sums are made in another
order, so that the last bits of a "dynamic" run depend on its timing: it cannot be repeated to the
bit. Nor does a share change the work that is no sample's: the optimiser's, the all-reduce.

    balancer = Balancer(comm, batch_size, "dynamic")
    start, stop = balancer.share()       # of this step; forward and backward of these, timed
    balancer.note(seconds, stop - start)

Cost: an all-gather of 8 bytes a rank, once in `interval` steps.
"""

from collections.abc import Sequence
from math import inf
from statistics import median

import numpy as np

from minillm.distributed.comm import Communicator
from minillm.distributed.ring import all_gather
from minillm.distributed.spans import span
from minillm.errors import UserError

MODES = ("equal", "static", "dynamic")

_GAIN = 0.05  # shares change if a step is predicted to become shorter by this part of it


def shares(batch_size: int, speeds: Sequence[float]) -> list[int]:
    """Samples for each rank, in proportion to `speeds` (in any unit), at least 1; their sum is
    `batch_size`.

    By largest remainder: each gets the whole part of its proportional share, and those with the
    largest remainders one more, the lower rank of two equal ones. A rank whose proportional share
    is below 1 gets 1, and the others divide the rest.

    Raises:
        UserError: more ranks than samples.
        ValueError: a speed that is not a positive finite number.
    """
    if batch_size < len(speeds):
        raise UserError(
            f"batch_size {batch_size} over {len(speeds)} ranks leaves some without a sample: raise"
            " it, or start fewer ranks"
        )
    if not all(0 < speed < inf for speed in speeds):
        raise ValueError(f"speeds must be positive and finite, not {list(speeds)}")
    top = max(speeds)  # only ratios count: sums stay finite
    speeds = [speed / top for speed in speeds]
    result, ranks, left = [1] * len(speeds), list(range(len(speeds))), batch_size
    while True:
        total = sum(speeds[r] for r in ranks)
        quota = {r: left * speeds[r] / total for r in ranks}
        if not (slow := [r for r in ranks if quota[r] < 1]):
            break
        ranks, left = [r for r in ranks if r not in slow], left - len(slow)
    for r in ranks:
        result[r] = int(quota[r])
    ranks.sort(key=lambda r: int(quota[r]) - quota[r])  # stable
    for r in ranks[: batch_size - sum(result)]:
        result[r] += 1
    return result


class Balancer:
    """The shares of a run. All ranks make one and call `note` equally often.

    Args:
        batch_size: samples a step, over all ranks.
        mode: "equal", "static" or "dynamic"; "dynamic" begins with equal shares.
        seconds: a sample of this rank takes, for "static": measured by all ranks at the same time,
            since ranks that share a machine slow each other down.
        interval: steps between decisions of "dynamic".

    Attributes:
        shares: samples of each rank, the same list on all ranks.

    Raises:
        UserError: no such mode, or more ranks than samples.
    """

    def __init__(
        self,
        comm: Communicator,
        batch_size: int,
        mode: str = "equal",
        seconds: float = 0.0,
        interval: int = 10,
    ):
        if mode not in MODES:
            raise UserError(f"no balance {mode!r}: choose one of {', '.join(MODES)}")
        self.comm, self.batch_size, self.mode, self.interval = comm, batch_size, mode, interval
        self._recent: list[float] = []  # seconds a sample, of the steps since the last decision
        shares(batch_size, [1.0] * comm.size)  # refuses more ranks than samples
        equal = (span(batch_size, r, comm.size) for r in range(comm.size))
        self.shares = [part.stop - part.start for part in equal]
        if mode == "static":
            self.shares = shares(batch_size, [1 / s for s in self._of_all(seconds)])

    def share(self) -> tuple[int, int]:
        """The samples [start, stop) of the global batch that are this rank's."""
        start = sum(self.shares[: self.comm.rank])
        return start, start + self.shares[self.comm.rank]

    def note(self, seconds: float, samples: int) -> None:
        """A step's sums are done. Every rank calls it each step; the shares may be others then.

        Of the speeds of a rank since the last decision, the median counts: a single step that was
        held up moves nothing.

        Args:
            seconds: this rank computed for, without waiting for others.
            samples: it did in that time.
        """
        if self.mode != "dynamic":
            return
        self._recent.append(seconds / samples)
        if len(self._recent) < self.interval:
            return
        each = self._of_all(median(self._recent))
        self._recent.clear()
        better = shares(self.batch_size, [1 / s for s in each])
        now, then = (max(s * n for s, n in zip(each, ns)) for ns in (self.shares, better))
        if then < (1 - _GAIN) * now:  # noise would make shares dance
            self.shares = better

    def _of_all(self, seconds: float) -> list[float]:
        """This number of every rank, by rank: all decide alike from the same."""
        told = np.zeros(self.comm.size)
        told[self.comm.rank] = seconds
        all_gather(self.comm, told)
        if not (told.min() > 0 and told.max() < inf):
            raise ValueError(f"seconds a sample must be positive and finite, not {told.tolist()}")
        return told.tolist()
