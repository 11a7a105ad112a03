"""The training run of ddp_scenario.py under any strategy, optimiser and clipping.

Besides what that one has: two groups of parameters, and one parameter, `b2`, whose gradient is
complete only after `sum_late`, which adds to it a tenth of each rank's share of the tokens.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from minillm.distributed import Communicator, global_count
from minillm.distributed.sync import STRATEGIES, Strategy
from minillm.optim import SGD, Adam, AdamW, clip_grad_norm
from tests.distributed.ddp_scenario import batch, loss, model

OPTIMIZERS = {
    "sgd": lambda groups: SGD(groups, 0.1),
    "momentum": lambda groups: SGD(groups, 0.1, momentum=0.9),
    "adam": lambda groups: Adam(groups, 0.01),
    "adamw": lambda groups: AdamW(groups, 0.01),
}
OPTIONS = {"bucketed": {"bucket_bytes": 600}, "zero1": {"bucket_bytes": 600}}
EXACT = ["naive", "bucketed", "zero1", "parameter-server"]


@dataclass
class Outcome:
    """What a rank has after training.

    Attributes:
        params: by name.
        state: what `state_dict` returned.
        norms: of the gradient, by step.
        losses: of the whole batch, by step.
    """

    sync: Strategy
    params: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    norms: list[float]
    losses: list[float]

    @property
    def flat(self) -> np.ndarray:
        """All parameters (n,)."""
        return np.concatenate([p.reshape(-1) for p in self.params.values()])


def train(
    comm: Communicator, kind: str, optimizer: str = "adamw", steps=range(20), start=None,
    micro: int = 2, clip: float = 4.0, late: float = 0.0, **options,
) -> Outcome:  # fmt: skip
    """Train for some steps, from the parameters and the state of another Outcome if given.

    This rank comes `late` seconds late to the sums of each step.
    """
    p = model()
    if comm.rank:  # to be overwritten by those of rank 0
        for tensor in p.values():
            tensor.data += comm.rank
    if start and comm.rank == 0:
        for name, tensor in p.items():
            tensor.data[...] = start.params[name]
    groups = [
        {
            "params": [t for t in p.values() if (t.ndim == 2) == matrices],
            "names": [name for name, t in p.items() if (t.ndim == 2) == matrices],
            "weight_decay": 0.1 * matrices,
        }
        for matrices in (True, False)
    ]
    share = 0.0

    def sum_late():
        p["b2"].grad_buffer += 0.1 * share

    sync = STRATEGIES[kind](
        comm, OPTIMIZERS[optimizer](groups), late=[p["b2"]], sum_late=sum_late,
        **OPTIONS.get(kind, {}) | options,
    )  # fmt: skip
    if start:
        sync.load_state_dict(start.state)
    norms, losses = [], []
    for step in steps:
        x, y, tokens = batch(step)
        first = comm.rank * len(x) // comm.size
        last = (comm.rank + 1) * len(x) // comm.size
        if not sync.takes_part():
            last = first
        own = int(tokens[first:last].sum())
        total = global_count(comm, own)
        divisor = sync.divisor(own, total)
        share = own / divisor if own else 0.0
        losses.append(0.0)
        for i in range(first, last, micro):
            s = slice(i, min(i + micro, last))
            if s.stop == last:
                time.sleep(late)
            with nullcontext() if s.stop == last else sync.no_sync():
                part = loss(p, x[s], y[s], tokens[s], i, divisor)
                part.backward()
            losses[-1] += part.item()
        sync.finish()
        norm, scale = clip_grad_norm(sync.optimizer.groups, clip, sync.total)
        norms.append(norm)
        sync.step(scale, 1 / (1 + step / 10))
    sync.settle()
    state = {name: array.copy() for name, array in sync.state_dict().items()}
    return Outcome(sync, {name: t.data.copy() for name, t in p.items()}, state, norms, losses)
