"""bucketed: gradients are summed in buckets, each as soon as backward has completed it.

    g = sum over ranks of g_r,  then every rank takes the same step

Cost of a step with n numbers in b buckets on p ranks: as `naive` with b in the place of P, but
while backward runs. A step takes the longer of the two instead of their sum; only what is left at
the end of backward is exposed. The messages are looked in on at each gradient. Exact. (Li et al.
2020, "PyTorch Distributed", arXiv 2006.15704.)
"""

from contextlib import AbstractContextManager
from typing import Any

from minillm.distributed.ddp import DistributedDataParallel
from minillm.distributed.sync.base import Strategy
from minillm.optim import ParamGroup


class Bucketed(Strategy):
    """DistributedDataParallel on the optimiser's flat arrays.

    Args:
        bucket_bytes: least size of a bucket.
        **options: as Strategy takes them.
    """

    def __init__(self, *args: Any, bucket_bytes: int = 4 << 20, **options: Any):
        self.bucket_bytes = bucket_bytes
        super().__init__(*args, **options)

    def replicate(self) -> None:
        """The DistributedDataParallel does, when it is made."""
        self.ddp = DistributedDataParallel(
            self.comm, [group.flat for group in self.optimizer.groups], self.bucket_bytes,
            self.reduce, self.late, self.sum_late,
        )  # fmt: skip

    @property
    def reduce(self) -> Any:
        """How a bucket is summed."""
        return self.sums.all_reduce

    def stretches(self) -> list[tuple[ParamGroup, slice]]:
        groups = {id(group.flat): group for group in self.optimizer.groups}
        return [(groups[id(bucket.group)], bucket.part) for bucket in self.ddp.buckets]

    def no_sync(self) -> AbstractContextManager[None]:
        return self.ddp.no_sync()

    def finish(self) -> None:
        before = self.ddp.exposed_seconds
        self.ddp.finish()
        self.exposed_seconds += self.ddp.exposed_seconds - before
        self.own_squares = self.ddp.own_squares
