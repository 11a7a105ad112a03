"""Data-parallel training: each rank has its share of the batch, and gradients are summed.

    ddp = DistributedDataParallel(comm, [group.flat for group in optimizer.groups])
    tokens = global_count(comm, number of tokens of this rank's share)
    for i, (x, y) in enumerate(micro_batches):
        with nullcontext() if i == last else ddp.no_sync():
            (sum of the losses of x, y / tokens).backward()
    ddp.finish()          # now every rank has the gradient of the whole batch
    optimizer.step()

Gradients are summed, never averaged: the mean of per-rank means is wrong as soon as ranks have
unequal numbers of tokens. Dividing each loss by the global number makes the sum the right mean.

The flat gradient is cut into buckets. Backward fills it from the front, and a bucket's all-reduce
starts once all its gradients are complete, while backward goes on to earlier layers; each further
gradient moves the messages on. Buckets start in the same order on all ranks, which they must.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from minillm.device import Array
from minillm.distributed.comm import Communicator
from minillm.distributed.compression import Plain
from minillm.distributed.steps import Progress, Steps, run
from minillm.distributed.tree import broadcast
from minillm.kernels.reduce import sum_of_squares
from minillm.optim.flat import FlatGroup
from minillm.tensor import Tensor


class _Bucket:
    """A slice of a group's flat arrays, and those of its parameters that backward still owes."""

    def __init__(self, group: FlatGroup, first: int, last: int):
        self.group, self.params = group, group.params[first:last]
        self.end = group.offsets[last] / group.offsets[-1]  # how late in backward, 0 to 1
        self.part = slice(group.offsets[first], group.offsets[last])
        self.grad = group.grad[self.part]  # a view
        self.reset()

    def reset(self) -> None:
        self.owed = {id(p) for p in self.params}


def _buckets(group: FlatGroup, bucket_bytes: int) -> list[_Bucket]:
    """Cut between parameters, each time `bucket_bytes` are reached."""
    buckets, first = [], 0
    for last in range(1, len(group.params) + 1):
        elements = group.offsets[last] - group.offsets[first]
        if elements * group.grad.itemsize >= bucket_bytes or last == len(group.params):
            buckets.append(_Bucket(group, first, last))
            first = last
    return buckets


class DistributedDataParallel:
    """Sums gradients over ranks while backward runs. With one rank it communicates nothing.

    Making it gives all ranks the parameters of rank 0.

    Args:
        comm: the ranks; each has made the same model.
        groups: all parameters to train.
        bucket_bytes: least size of a bucket; the last of a group may be smaller. Large buckets use
            the bandwidth better, small ones start earlier.
        reduce: sums a bucket over ranks, reduce(comm, grad, tag) -> steps; by default, exactly.
        late: parameters whose gradients are complete only after `sum_late()`, which `finish` calls.

    Attributes:
        buckets: in the order in which they are summed.
        started: how many of them have been started since the last `finish`.
        exposed_seconds: time spent in `finish` so far: communication that backward did not hide.
        own_squares: the squared norm of this rank's gradient in the last step, before it was summed
            (not with one rank).
    """

    def __init__(
        self,
        comm: Communicator,
        groups: Sequence[FlatGroup],
        bucket_bytes: int = 4 << 20,
        reduce: Callable[[Communicator, Array, int], Steps[Any]] | None = None,
        late: Sequence[Tensor] = (),
        sum_late: Callable[[], None] = lambda: None,
    ):
        self.comm, self.groups = comm, list(groups)
        self.reduce = reduce or Plain().all_reduce
        self.sum_late = sum_late
        self.started = 0
        self.exposed_seconds = self.own_squares = 0.0
        self._squares: list[Any] = []
        self._progress = Progress()
        self._sync = True
        self.buckets = [b for group in self.groups for b in _buckets(group, bucket_bytes)]
        self.buckets.sort(key=lambda bucket: bucket.end)  # stable, so the same on all ranks
        if comm.size == 1:
            return
        for group in self.groups:
            broadcast(comm, group.data)
        known_late = {id(p) for p in late}
        for i, bucket in enumerate(self.buckets):
            for p in bucket.params:
                if id(p) not in known_late:
                    p.register_post_accumulate_grad_hook(partial(self._complete, i))

    def _complete(self, index: int, p: Tensor) -> None:
        """Backward has added the last to `p.grad`; or found that nothing reaches p this time."""
        if not self._sync or p.grad is None:
            return
        if index < self.started:
            raise RuntimeError(
                "a gradient changed after its sum over ranks had started: call finish() after each"
                " step, and run all backward passes of a step but the last under no_sync()"
            )
        self.buckets[index].owed.discard(id(p))
        while self.started < len(self.buckets) and not self.buckets[self.started].owed:
            self._start()
        self._progress.poll()

    def _start(self) -> None:
        grad = self.buckets[self.started].grad
        self._squares.append(sum_of_squares(grad))
        self._progress.start(self.reduce(self.comm, grad, self.started))
        self.started += 1

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside only accumulate; the next one outside sums what all have added."""
        before, self._sync = self._sync, False
        try:
            yield
        finally:
            self._sync = before

    def finish(self) -> None:
        """Wait until every gradient is summed over ranks. Every rank calls it once a step, also one
        that had no data: its gradients, as all that backward did not reach, count as zero."""
        began = time.perf_counter()
        for group in self.groups:
            group.fill_missing_grads()
        self.sum_late()
        if self.comm.size > 1:
            while self.started < len(self.buckets):
                self._start()
            self._progress.wait()
            self.started = 0
            self.own_squares = float(sum(self._squares))
            self._squares.clear()
            for bucket in self.buckets:
                bucket.reset()
        else:  # sums of more ranks, which this one goes on from, may still owe something
            for i, bucket in enumerate(self.buckets):
                run(self.reduce(self.comm, bucket.grad, i))
        self.exposed_seconds += time.perf_counter() - began
