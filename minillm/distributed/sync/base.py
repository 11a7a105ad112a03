"""What all strategies share: the course of a training step on data-parallel ranks.

    with sync.no_sync(): part.backward()       all micro-batches but the last
    part.backward()                            the last: sums may start while it runs
    sync.finish()                              gradients are what this rank's update goes by
    norm, clip = clip_grad_norm(groups, most, sync.total)
    sync.step(clip, lr_scale)                  update; parameters are as the strategy leaves them
    sync.settle()                              before evaluation and checkpoints: the same on all

Losses are sums over tokens, divided by `sync.divisor(own, everyone's)`: strategies that sum
gradients divide by the tokens of all ranks, so that the sum is the right mean whatever the shares;
those on which each rank goes its own way divide by the tokens of that rank.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from minillm import env
from minillm.distributed.allreduce import all_reduce
from minillm.distributed.comm import Communicator, SingleProcess
from minillm.distributed.compression import Compressed, Plain
from minillm.distributed.tree import broadcast
from minillm.optim import Optimizer, ParamGroup
from minillm.tensor import Tensor

OWED = "owed"  # in checkpoints, to sums of gradients


class Strategy(ABC):
    """Keeps the parameters of data-parallel ranks in step. Making one is a collective: all ranks
    get the parameters of rank 0.

    Args:
        comm: the data-parallel ranks.
        optimizer: over the same parameters on every rank.
        sums: how arrays are summed: Plain(), or Compressed(codec).
        model: the ranks that hold this copy of the model together, where it is split.
        late: parameters whose gradients are complete only after `sum_late()`.

    Attributes:
        exact: whether training equals that of one process on the whole batch, but for rounding.
        owed: what checkpoints call what compressed sums still owe; only where it is called alike
            can another strategy go on with it.
        replicas: whether all ranks have the same parameters after each step, to the bit.
        exposed_seconds: time in which this rank did nothing but communicate, so far.
        own_squares: the squared norm of this rank's own gradient in the last step, before it was
            summed over ranks; NaN or infinite where the trouble comes from.
    """

    exact = True
    owed = OWED
    replicas = True

    def __init__(
        self,
        comm: Communicator,
        optimizer: Optimizer,
        sums: Plain | Compressed | None = None,
        model: Communicator | None = None,
        late: Sequence[Tensor] = (),
        sum_late: Callable[[], None] = lambda: None,
    ):
        self.comm, self.optimizer = comm, optimizer
        self.sums = sums or Plain()
        self.model = model or SingleProcess()
        self.late, self.sum_late = list(late), sum_late
        self.exposed_seconds = 0.0
        self.own_squares = 0.0
        self.replicate()

    def replicate(self) -> None:
        """Give all ranks the parameters of rank 0."""
        for group in self.optimizer.groups:
            broadcast(self.comm, group.flat.data)

    def divisor(self, own: int, everyone: int) -> int:
        """By how many tokens this rank divides its losses."""
        return everyone if self.exact else own

    def takes_part(self) -> bool:
        """Whether this rank trains in the coming step: if not, give it no data."""
        return True

    @contextmanager
    def exposed(self) -> Iterator[None]:
        """What happens inside is communication that nothing hides."""
        began = time.perf_counter()
        yield
        self.exposed_seconds += time.perf_counter() - began

    def no_sync(self) -> AbstractContextManager[None]:
        """Backward passes inside only accumulate; the next one outside is the last of its step."""
        return nullcontext()

    @abstractmethod
    def finish(self) -> None:
        """Return once the gradients are what `step` is to go by. Every rank calls it once a step,
        also one that had no data: its gradients count as zero."""

    def total(self, squares: float) -> float:
        """The sum of a number over the ranks that hold other parts of the gradient."""
        return over(self.model, squares)

    def step(self, grad_scale: float = 1.0, lr_scale: float = 1.0) -> None:
        """Update the parameters, as `Optimizer.step`, and forget the gradients."""
        self.optimizer.step(grad_scale, lr_scale)
        self.optimizer.zero_grad()

    def settle(self) -> None:
        """Give all ranks the same parameters, if they have not."""
        assert self.replicas, "a strategy without replicas defines settle"

    # --- checkpoints ------------------------------------------------------------------------------

    def flat_state(self, group: ParamGroup, name: str) -> np.ndarray:
        """A state array (n,) of the optimiser, whole, on rank 0; a collective."""
        return group.flat_state(name)

    def stretches(self) -> list[tuple[ParamGroup, slice]]:
        """By tag, what is summed at once."""
        return [(group, slice(0, group.flat.data.size)) for group in self.optimizer.groups]

    def state_dict(self) -> dict[str, np.ndarray]:
        """The optimiser's, whole, and what compressed sums still owe, as "OWED.NAME" for each
        parameter: a collective. On rank 0; elsewhere of no use."""
        state = self.optimizer.state_dict(self.flat_state)
        if not isinstance(self.sums, Plain):
            owed, flats = self.sums.state_dict(self.comm), self._flats()
            for tag, (group, part) in enumerate(self.stretches()):
                flats[id(group)][part] = owed.get(str(tag), 0)
            for group in self.optimizer.groups:
                state |= group.by_name(self.owed, flats[id(group)])
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state_dict`, saved on any number of ranks with any strategy."""
        owed = {name: array for name, array in state.items() if name.startswith(OWED)}
        self.optimizer.load_state_dict({k: v for k, v in state.items() if k not in owed})
        if not owed:
            return
        same = next(iter(owed)).startswith(f"{self.owed}.")
        if isinstance(self.sums, Plain) or not same:
            if self.comm.rank == self.model.rank == 0:
                why = "another --sync" if not same else "no --compress any more"
                env.say_once(f"{why}: what compressed sums still owed is dropped")
            return
        flats = {id(group): group.flattened(self.owed, owed) for group in self.optimizer.groups}
        stretches = enumerate(self.stretches())
        parts = {str(tag): flats[id(group)][part] for tag, (group, part) in stretches}
        self.sums.load_state_dict(self.comm, parts)

    def _flats(self) -> dict[int, np.ndarray]:
        """Zeros on the host for each group, by its id."""
        groups = self.optimizer.groups
        return {
            id(group): np.zeros(group.flat.data.size, group.flat.data.dtype) for group in groups
        }


def over(comm: Communicator, *values: float) -> Any:
    """The sum of a number over ranks; of several, a list of their sums."""
    totals = np.array(values, np.float64)
    all_reduce(comm, totals)
    return totals.tolist() if len(values) > 1 else totals.item()
