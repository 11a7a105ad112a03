"""A small training run with everything that goes wrong in data parallelism, on any number of ranks.

Shares of the batch are unequal, samples count a different number of tokens, micro-batches have a
shorter tail, some steps leave ranks without data. `rare` is reached by sample 0 alone, so on one
rank and not in its last micro-batch; `never` by none.
"""

from contextlib import nullcontext

import numpy as np

from minillm.distributed import Communicator, DistributedDataParallel, global_count
from minillm.optim.flat import FlatGroup
from minillm.tensor import Tensor

SHAPES = {"w1": (5, 32), "b1": (32,), "w2": (32, 16), "b2": (16,), "w3": (16, 3),
          "rare": (3,), "never": (7,)}  # fmt: skip


def model() -> dict[str, Tensor]:
    rng = np.random.default_rng(7)
    return {
        name: Tensor(rng.standard_normal(shape) / 4, requires_grad=True)
        for name, shape in SHAPES.items()
    }


def batch(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (B, 5), targets (B, 3) and tokens (B,) of the global batch."""
    rng = np.random.default_rng((11, step))
    samples = 2 if step == 4 else 13
    return (
        rng.standard_normal((samples, 5)),
        rng.standard_normal((samples, 3)),
        rng.integers(1, 9, samples),
    )


def loss(p: dict[str, Tensor], x, y, tokens, first: int, total: int) -> Tensor:
    """Squared errors, weighted by tokens, over the tokens of all ranks. x[0] is sample `first`."""
    h = (Tensor(x) @ p["w1"] + p["b1"]).tanh()
    h = (h @ p["w2"] + p["b2"]).tanh()
    out = h @ p["w3"]
    if first == 0:
        out = out + p["rare"] * Tensor(np.eye(len(x), 1))  # sample 0 only
    return ((out - Tensor(y)) ** 2 * Tensor(tokens[:, None] / total)).sum()


def train(comm: Communicator, steps: int = 20, micro: int = 2) -> np.ndarray:
    """The parameters (n,) after some steps of plain gradient descent."""
    p = model()
    if comm.rank:  # to be overwritten by those of rank 0
        for tensor in p.values():
            tensor.data += comm.rank
    matrices = FlatGroup(t for t in p.values() if t.ndim == 2)
    vectors = FlatGroup(t for t in p.values() if t.ndim == 1)
    ddp = DistributedDataParallel(comm, [vectors, matrices], bucket_bytes=600)
    for step in range(steps):
        x, y, tokens = batch(step)
        start = comm.rank * len(x) // comm.size
        stop = (comm.rank + 1) * len(x) // comm.size
        total = global_count(comm, int(tokens[start:stop].sum()))
        for i in range(start, stop, micro):
            s = slice(i, min(i + micro, stop))
            with nullcontext() if s.stop == stop else ddp.no_sync():
                loss(p, x[s], y[s], tokens[s], i, total).backward()
        ddp.finish()
        for group in (matrices, vectors):
            group.data -= 0.1 * group.grad
            group.zero_grad()
    return np.concatenate([matrices.data, vectors.data])
