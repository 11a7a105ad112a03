"""A model whose parameters say which gradients are in them.

Rank r's gradient is 1000^r for each parameter, and all servers together take a step of -1 times it:
three digits of a parameter count the gradients of rank 0, the next three those of rank 1, ...
"""

import numpy as np

from minillm.distributed import Communicator
from minillm.distributed.sync import ParameterServer
from minillm.optim import SGD
from minillm.tensor import Tensor


class Counting:
    """A run on these ranks; `step` takes a step, `counts` reads the parameters."""

    def __init__(self, comm: Communicator, n: int = 7, **options):
        self.comm = comm
        self.w = Tensor(np.zeros(n), requires_grad=True)
        self.sync = ParameterServer(comm, SGD([self.w], lr=comm.size), **options)

    def step(self, grad_scale: float = 1.0) -> None:
        assert self.sync.divisor(1, self.comm.size) == 1
        (self.w * Tensor(np.array(1000.0**self.comm.rank))).sum().backward()
        self.sync.finish()
        self.sync.step(grad_scale)

    def counts(self) -> np.ndarray:
        """(ranks, n): how many gradients of each rank are in each parameter here."""
        powers = 1000 ** np.arange(self.comm.size)[:, None]
        return -self.w.data.astype(np.int64) // powers % 1000
