"""The stand-in's functions on whole arrays, by CuPy's signatures; keywords not used are missing."""

import numpy as np

from tests.fake_cupy.array import (
    _view,
    adopt,
    destination,
    finish,
    memory_of,
    ndarray,
    operand,
)  # fmt: skip
from tests.fake_cupy.ufuncs import FUNCTIONS

# --- new arrays -----------------------------------------------------------------------------------


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, ndarray):
        dtype = obj.dtype if dtype is None else dtype
        return obj.astype(dtype, copy=copy)
    return adopt(np.array(obj, dtype))


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, copy=bool(copy))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a)


def empty(shape, dtype=float, order="C"):
    whole = np.dtype(dtype).kind in "biu"
    return adopt(np.full(shape, 1 if whole else np.nan, dtype, order))  # nobody may rely on it


def zeros(shape, dtype=float, order="C"):
    return adopt(np.zeros(shape, dtype, order))


def ones(shape, dtype=float, order="C"):
    return adopt(np.ones(shape, dtype, order))


def full(shape, fill_value, dtype=None, order="C"):
    return adopt(np.full(shape, operand(fill_value), dtype, order))


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return empty(memory_of(prototype).shape, prototype.dtype if dtype is None else dtype)


def zeros_like(a, dtype=None, order="K", subok=None, shape=None):
    return adopt(np.zeros_like(memory_of(a), dtype, order, shape=shape))


def ones_like(a, dtype=None, order="K", subok=None, shape=None):
    return adopt(np.ones_like(memory_of(a), dtype, order, shape=shape))


def arange(start, stop=None, step=1, dtype=None):
    return adopt(np.arange(*((start,) if stop is None else (start, stop, step)), dtype=dtype))


def eye(N, M=None, k=0, dtype=float, order="C"):
    return adopt(np.eye(N, M, k, dtype))


def tri(N, M=None, k=0, dtype=float):
    return adopt(np.tri(N, M, k, dtype))


# --- the same elements, or some -------------------------------------------------------------------


def ascontiguousarray(a, dtype=None):
    memory = memory_of(a)
    if memory.flags.c_contiguous and memory.ndim and dtype in (None, a.dtype):
        return a
    return _view(a, np.ascontiguousarray(memory, dtype))


def broadcast_to(array, shape):
    return _view(array, np.broadcast_to(memory_of(array), shape))


def moveaxis(a, source, destination):
    return _view(a, np.moveaxis(memory_of(a), source, destination))


def flip(a, axis=None):
    return _view(a, np.flip(memory_of(a), axis))


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    return finish(np.concatenate(list(map(memory_of, tup)), axis))


def stack(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    return finish(np.stack(list(map(memory_of, tup)), axis))


def _no_bfloat16(result):
    """cupy.where has no loop for bfloat16 and answers in float32 (CuPy 14.2)."""
    return adopt(np.asarray(result, np.float32 if result.dtype.name == "bfloat16" else None))


def where(condition, x=None, y=None):
    return _no_bfloat16(np.where(memory_of(condition), operand(x), operand(y)))


def tril(m, k=0):
    return _no_bfloat16(np.tril(memory_of(m), k))


def triu(m, k=0):
    return _no_bfloat16(np.triu(memory_of(m), k))


def nonzero(a):
    return a.nonzero()


def may_share_memory(a, b, max_work=None):
    return np.may_share_memory(memory_of(a), memory_of(b))


# --- computations ---------------------------------------------------------------------------------


def matmul(*args, casting="same_kind", dtype=None, out=None):
    a, b = map(memory_of, args)
    result = np.matmul(a, b, out=destination(out), dtype=dtype, casting=casting)
    return finish(result.astype(np.result_type(a, b), copy=False), out)


def einsum(*operands, **kwargs):
    subscripts, *arrays = operands
    if wrong := kwargs.keys() - {"dtype", "optimize"}:
        raise TypeError(f"Did not understand the following kwargs: {wrong}")
    return finish(np.einsum(subscripts, *map(memory_of, arrays), **kwargs))


def argmax(a, axis=None, dtype=None, out=None, keepdims=False):
    return a.argmax(axis, keepdims=keepdims)


def argmin(a, axis=None, dtype=None, out=None, keepdims=False):
    return a.argmin(axis, keepdims=keepdims)


def argsort(a, axis=-1, kind=None):
    return a.argsort(axis, kind)


def searchsorted(a, v, side="left", sorter=None):
    return finish(np.searchsorted(memory_of(a), operand(v), side))


def sum(a, axis=None, dtype=None, out=None, keepdims=False):
    return a.sum(axis, dtype, out, keepdims)


def isscalar(element):
    return np.isscalar(element)


def erf(x):
    """cupyx.scipy.special.erf."""
    import math

    return adopt(np.vectorize(math.erf, otypes=[x.dtype])(memory_of(x)))


NAMES = (
    "arange", "argmax", "argmin", "argsort", "array", "asarray", "ascontiguousarray", "asnumpy",
    "broadcast_to", "concatenate", "einsum", "empty", "empty_like", "eye", "flip", "full",
    "isscalar", "matmul", "may_share_memory", "moveaxis", "nonzero", "ones", "ones_like",
    "searchsorted", "stack", "sum", "tri", "tril", "triu", "where", "zeros", "zeros_like",
)  # fmt: skip


def _matmul(self, other):
    return matmul(self, other)


def _reflected_matmul(self, other):
    return matmul(other, self)


def _array_function(self, function, types, args, kwargs):
    """What NumPy's functions do when they are given an array of the GPU."""
    ours = globals().get(function.__name__) if function.__name__ in NAMES else None
    return NotImplemented if ours is None else ours(*args, **kwargs)


ndarray.__matmul__, ndarray.__rmatmul__ = _matmul, _reflected_matmul
ndarray.__array_function__ = _array_function
TYPES = ("bool_", "float16", "float32", "float64", "int32", "int64", "uint8", "uint32", "uint64")
EVERYTHING = {
    **FUNCTIONS, **{name: globals()[name] for name in NAMES}, "ndarray": ndarray,
    **{name: getattr(np, name) for name in TYPES}, "inf": np.inf, "nan": np.nan,
    "newaxis": None, "pi": np.pi,
}  # fmt: skip
