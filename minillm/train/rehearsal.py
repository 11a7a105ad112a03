"""Before the first step: compile what it needs, and see how fast this rank is.

In: the ranks and the configuration. Out: kernels in the cache, and seconds a sample.
"""

import dataclasses
import time

from minillm.autograd import no_grad
from minillm.device import module, synchronize
from minillm.distributed import Communicator
from minillm.optim import clip_grad_norm
from minillm.train.build import build_model, build_optimizer, build_precision
from minillm.train.config import Config


def rehearse(comm: Communicator, config: Config) -> None:
    """Compile all kernels of a step on a tiny model: rank 0 first, the rest from its cache."""
    for turn in range(2):
        if (comm.rank == 0) == (turn == 0):
            _run(_tiny(config), 2)
        comm.barrier()


def seconds_a_sample(config: Config) -> float:
    """How long this rank takes for a sample of a tiny model, while all others try the same."""
    tiny = _tiny(config)
    synchronize(config.device)
    began, samples = time.perf_counter(), 0
    while time.perf_counter() < began + 0.5 or not samples:
        _run(tiny, 2)
        synchronize(config.device)
        samples += 2
    return (time.perf_counter() - began) / samples


def _tiny(config: Config) -> Config:
    return dataclasses.replace(config, n_layer=1, n_embd=8 * config.n_head, block_size=16)


def _run(tiny: Config, samples: int) -> None:
    """A step and an evaluation."""
    model = build_model(tiny, 32)
    optimizer = build_optimizer(tiny, model)
    ids = module(tiny.device).zeros((samples, tiny.block_size), "int64")  # (B, T)
    with build_precision(tiny):
        loss = model(ids, ids, reduction="sum")[1]
    loss.backward()
    optimizer.step(clip_grad_norm(optimizer.groups, 1.0)[1])
    with no_grad(), build_precision(tiny):
        model.eval()(ids, ids)
