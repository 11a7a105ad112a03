"""Clipping by the global norm (Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063)."""

import math
from collections.abc import Callable, Iterable

from minillm.kernels.reduce import sum_of_squares
from minillm.optim.optimizer import ParamGroup


def clip_grad_norm(
    groups: Iterable[ParamGroup],
    max_norm: float = math.inf,
    over_ranks: Callable[[float], float] = lambda squares: squares,
) -> tuple[float, float]:
    """The norm of all gradients together, and the factor that brings it down to `max_norm`.

    Nothing is written: give the factor to `step(grad_scale=factor)`, which applies it in passing.

    Args:
        groups: of an optimiser.
        max_norm: infinite only measures.
        over_ranks: sums the squares over ranks that have different gradients.

    Returns:
        norm: before clipping. If it is infinite or NaN, so is a gradient, and the step must not be
            taken: check it with `math.isfinite`.
        factor: max_norm / (norm + 1e-6), as PyTorch has it, or 1 where that is larger.
    """
    total = 0.0
    for group in groups:
        group.flat.fill_missing_grads()
        if group.counted:
            total += sum(float(sum_of_squares(shard.grad)) for shard in group.shards)
    norm = math.sqrt(over_ranks(total))
    return norm, min(1.0, max_norm / (norm + 1e-6))
