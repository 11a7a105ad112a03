"""zero1: every rank updates its part of each bucket, and keeps the optimiser state for that alone.

    reduce-scatter    rank r gets  g[part r] = sum over ranks of g_s[part r]
    update            p[part r] and its state, by rank r alone
    all-gather        every rank gets all parts of p

(Rajbhandari et al. 2020, "ZeRO", arXiv 1910.02054, stage 1.) A ring all-reduce is these two halves,
so that the messages are those of `bucketed`:

    2 (p - 1) / p * n bytes / bandwidth

of which the reduce-scatters hide behind backward and the all-gathers behind the updates of later
buckets. Memory: AdamW's two moments shrink from 8 to 8 / p bytes a parameter (float32), and each
rank updates n / p parameters instead of n. It gives up nothing: exact. The first half of the sums
cannot use the algorithms for small messages; take larger buckets.
"""

from typing import Any

from minillm.distributed.ring import all_gather
from minillm.distributed.steps import Progress
from minillm.distributed.sync.bucketed import Bucketed
from minillm.distributed.sync.sharded import Sharded
from minillm.optim import Shard


class Zero1(Sharded, Bucketed):
    """Bucketed, with the update and its state split over ranks; arguments as Bucketed's."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._gathers = Progress()
        self._bucket_of: dict[int, int] = {}  # by the id of its shard
        for group in self.optimizer.groups:
            mine = [(i, b) for i, b in enumerate(self.ddp.buckets) if b.group is group.flat]
            group.shard([self.own(bucket.part) for _, bucket in mine])
            self._bucket_of |= {id(s): i for s, (i, _) in zip(group.shards, mine)}

    @property
    def reduce(self) -> Any:
        return self.sums.reduce_scatter

    def step(self, grad_scale: float = 1.0, lr_scale: float = 1.0) -> None:
        self.optimizer.step(grad_scale, lr_scale, self._spread)
        with self.exposed():
            self._gathers.wait()
        self.optimizer.zero_grad()

    def _spread(self, shard: Shard) -> None:
        """Send an updated shard on, while the next one is updated."""
        i = self._bucket_of[id(shard)]
        bucket = self.ddp.buckets[i]
        self._gathers.start(all_gather.steps(self.comm, bucket.group.data[bucket.part], tag=i))
        self._gathers.poll()
