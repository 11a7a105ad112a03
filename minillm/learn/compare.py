"""What checks are written with: comparisons that raise a Mistake the learner can act on."""

from collections.abc import Callable
from typing import Any

import numpy as np


class Mistake(AssertionError):
    """What is wrong with an answer, in words for the learner."""


def expect(condition: Any, otherwise: str) -> None:
    """Raise Mistake(otherwise) unless `condition` holds."""
    if not condition:
        raise Mistake(otherwise)


def same(what: str, got: Any, wanted: Any, rtol: float = 1e-5, atol: float = 1e-8) -> None:
    """Raise Mistake unless `got` has the shape of `wanted` and lies within atol + rtol |wanted|.

    Both are numbers, arrays, Tensors, or tuples or lists of those; integers must be equal.
    The message names `what`, and both shapes, or the first index that differs and both numbers.
    """
    if isinstance(wanted, (tuple, list)):
        kind = type(got).__name__
        expect(isinstance(got, (tuple, list)), f"{what} is a {kind}, expected {len(wanted)} things")
        expect(len(got) == len(wanted), f"{what} has {len(got)} things, expected {len(wanted)}")
        for i, (one, other) in enumerate(zip(got, wanted)):
            same(f"{what}[{i}]", one, other, rtol, atol)
        return
    expect(got is not None, f"{what} is None: is a `return` missing?")
    got, wanted = _array(what, got), _array(what, wanted)
    if got.shape != wanted.shape:
        raise Mistake(f"{what} has shape {got.shape}, expected {wanted.shape}")
    if wanted.dtype.kind in "iub":
        wrong = got != wanted
    else:
        a, b = got.astype(np.float64), wanted.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            near = (np.abs(a - b) <= atol + rtol * np.abs(b)) & np.isfinite(b)
        wrong = ~(near | (a == b) | (np.isnan(a) & np.isnan(b)))
    count = int(np.count_nonzero(wrong))
    if count:
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = f"{what}[{', '.join(map(str, index))}]" if index else what
        more = f" ({count} of {wrong.size} elements differ)" if wrong.size > 1 else ""
        raise Mistake(f"{place} is {_short(got[index])}, expected {_short(wanted[index])}{more}")


def refuses(what: str, function: Callable, *args: Any) -> None:
    """Raise Mistake unless `function(*args)` raises a ValueError (a UserError is one)."""
    try:
        result = function(*args)
    except ValueError:
        return
    raise Mistake(f"{what} must raise ValueError; it returned {_brief(result)}")


def _array(what: str, got: Any) -> np.ndarray:
    got = got if isinstance(got, np.ndarray) else getattr(got, "data", got)
    try:
        array = np.asarray(got)
    except ValueError:  # ragged
        raise Mistake(f"{what} is not an array: {_brief(got)}") from None
    if array.dtype.kind not in "iubf" and "float" not in str(array.dtype):
        raise Mistake(f"{what} holds no numbers, but {_brief(got)}")
    return array


def _short(number: Any) -> str:
    value = number.item() if hasattr(number, "item") else number
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
