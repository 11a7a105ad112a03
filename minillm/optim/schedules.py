"""Learning-rate schedules: functions from the step, counted from 0, to a factor of the learning
rate.

All warm up alike, linearly over `warmup` steps: (step + 1) / (warmup + 1) (Goyal et al. 2017, arXiv
1706.02677). Then each goes its way from 1 to `floor` at step `total`, and stays there.
"""

import difflib
import math
from collections.abc import Callable

from minillm.errors import UserError

Schedule = Callable[[int], float]


def _constant(x: float, floor: float) -> float:
    return 1.0


def _cosine(x: float, floor: float) -> float:
    """Half a cosine wave down (Loshchilov & Hutter 2017, arXiv 1608.03983)."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * x)) / 2


def _linear(x: float, floor: float) -> float:
    return floor + (1 - floor) * (1 - x)


def _wsd(x: float, floor: float) -> float:
    """Warm-up, stable, decay: at 1 for most of the way, then down a straight line over the last
    fifth (Hu et al. 2024, arXiv 2404.06395; length of the decay: Haegele et al. 2024, arXiv
    2405.18392)."""
    return floor + (1 - floor) * min(1.0, (1 - x) / 0.2)


# Each a function of the part of the way gone, from 0 at the end of the warm-up to 1 at `total`.
_SHAPES = {"constant": _constant, "cosine": _cosine, "linear": _linear, "wsd": _wsd}
SCHEDULES = (*_SHAPES, "inverse_sqrt")


def schedule(name: str, warmup: int, total: int, floor: float = 0.0) -> Schedule:
    """The schedule `name` as a function `step -> factor`.

    Args:
        name: "constant", "cosine", "linear", "wsd", or "inverse_sqrt", which falls as the root of
            warmup / step and never below `floor` (Vaswani et al. 2017, arXiv 1706.03762).
        warmup: steps of warm-up; 0 starts at 1.
        total: steps of the whole run.
        floor: the factor at the end, in [0, 1].

    Raises:
        UserError: unknown name, or numbers that do not go together.
    """
    if name not in SCHEDULES:
        near = difflib.get_close_matches(name, SCHEDULES, 1, 0)[0]
        raise UserError(f"no schedule {name!r}; did you mean {near!r}? ({', '.join(SCHEDULES)})")
    if not 0 <= warmup <= total:
        raise UserError(f"warmup is {warmup}: it must be between 0 and the {total} steps")
    if not 0 <= floor <= 1:
        raise UserError(f"the schedule's floor is {floor}: it must be between 0 and 1")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if name == "inverse_sqrt":
            return max(floor, math.sqrt(max(warmup, 1) / max(step, 1)))
        gone = min(1.0, (step - warmup) / (total - warmup)) if total > warmup else 1.0
        return _SHAPES[name](gone, floor)

    return factor
