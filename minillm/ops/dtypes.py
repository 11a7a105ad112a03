"""Which dtype a result has: PyTorch's promotion rules, on arrays and Python numbers.

Kinds rank boolean < integer < floating. The highest kind among the inputs wins; within it, arrays
with dimensions outvote 0-d arrays, and both outvote Python numbers. A Python number thus changes a
dtype only by its kind: integers meet 0.5 in the default floating dtype, not in float64 as in NumPy.
"""

import importlib
from typing import Any

import numpy as np

from minillm.device import Array
from minillm.errors import UserError

DEFAULT_DTYPE = np.dtype("float32")  # of Python floats, and of integers that must become floating
_INTEGER = np.dtype("int64")


def rank(dtype: Any) -> int:
    """0 for booleans, 1 for integers, 2 for floating dtypes (bfloat16 reports kind "V")."""
    kind = dtype.kind
    return 0 if kind == "b" else 1 if kind in "iu" else 2


def is_floating(x: Array) -> bool:
    """Whether `x` is of a dtype that can have a gradient."""
    return x.dtype.kind not in "biu"


def as_floating(x: Array) -> Array:
    """`x`, in the default floating dtype if it holds integers or booleans."""
    return x if is_floating(x) else x.astype(DEFAULT_DTYPE)


def result_dtype(*arrays: Array) -> Any:
    """The dtype in which `arrays` meet."""
    top = max(rank(a.dtype) for a in arrays)
    highest = [a for a in arrays if rank(a.dtype) == top]
    voters = [a.dtype for a in highest if a.ndim] or [a.dtype for a in highest]
    return np.result_type(*voters)


def promote(x: Any, y: Any) -> tuple[Any, Any]:
    """`x` and `y`, of which at most one is a Python number, with arrays in the result's dtype."""
    x_dtype, y_dtype = getattr(x, "dtype", None), getattr(y, "dtype", None)
    if x_dtype == y_dtype and x_dtype is not None:
        return x, y
    if y_dtype is None:
        return _meet_number(x, y)
    if x_dtype is None:
        return _meet_number(y, x)[::-1]
    if isinstance(y, np.generic):  # np.sqrt(2) is a number like any other
        return _meet_number(x, y.item())
    if isinstance(x, np.generic):
        return _meet_number(y, x.item())[::-1]
    dtype = result_dtype(x, y)
    return x.astype(dtype, copy=False), y.astype(dtype, copy=False)


def find_dtype(name: Any) -> np.dtype:
    """The dtype that `name`, a string, type or dtype, means.

    Raises:
        UserError: there is none of that name.
    """
    if name == "bfloat16":
        importlib.import_module("ml_dtypes")  # NumPy knows it from then on
    try:
        return np.dtype(name)
    except TypeError:
        raise UserError(
            f"unknown dtype {name!r}: choose one of float64, float32, float16, bfloat16, int64, ..."
        ) from None


def _meet_number(x: Array, number: Any) -> tuple[Array, Any]:
    if isinstance(number, list | tuple):
        raise UserError(f"a Tensor meets a {type(number).__name__}: make it a Tensor first")
    kind = x.dtype.kind
    if kind == "V":  # NumPy would take bfloat16 and a float to float32
        return x, x.dtype.type(number)
    if kind != "f":
        if isinstance(number, float):
            return x.astype(DEFAULT_DTYPE), number
        if kind == "b" and not isinstance(number, bool):
            return x.astype(_INTEGER), number
    return x, number
