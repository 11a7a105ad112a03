"""naive: when backward is done, one all-reduce after the other, a parameter each.

    g = sum over ranks of g_r,  then every rank takes the same step

Cost of a step with P parameters of n numbers in all, on p ranks,

    2 P log2(p) latency (ring: 2 P (p - 1))  +  2 (p - 1) / p * n bytes / bandwidth

none of it hidden: what `bucketed` is measured against. It gives up nothing but time: exact.
"""

from minillm.distributed.steps import run
from minillm.distributed.sync.base import Strategy
from minillm.kernels.reduce import sum_of_squares
from minillm.optim import ParamGroup


class Naive(Strategy):
    """Sums the gradient of each parameter, after backward."""

    def finish(self) -> None:
        groups = self.optimizer.groups
        for group in groups:
            group.flat.fill_missing_grads()
        self.own_squares = sum(float(sum_of_squares(group.flat.grad)) for group in groups)
        with self.exposed():
            self.sum_late()
            grads = [p.grad_buffer for group in groups for p in group.flat.params]
            for tag, grad in enumerate(grads):
                run(self.sums.all_reduce(self.comm, grad.reshape(-1), tag))

    def stretches(self) -> list[tuple[ParamGroup, slice]]:
        return [
            (group, slice(start, stop))
            for group in self.optimizer.groups
            for start, stop in zip(group.flat.offsets, group.flat.offsets[1:])
        ]
