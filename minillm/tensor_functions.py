"""Functions that PyTorch keeps under `torch.`: new tensors, and ops on several tensors alike.

`dtype` is float32 (int64 for integers) unless given; `device` is "cpu" or "cuda".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minillm.device import module
from minillm.errors import UserError
from minillm.ops import elementwise, shape
from minillm.ops.dtypes import DEFAULT_DTYPE, find_dtype
from minillm.ops.einsum import Einsum
from minillm.random import default_generator
from minillm.tensor import Tensor, apply, raw

__all__ = [
    "abs", "all", "amax", "amin", "any", "arange", "argmax", "argmin", "broadcast_to", "cat",
    "chunk", "clamp", "cumsum", "einsum", "exp", "eye", "flatten", "full", "gather", "index_select",
    "log", "logsumexp", "masked_fill", "matmul", "max", "maximum", "mean", "min", "minimum", "norm",
    "ones", "ones_like", "permute", "pow", "rand", "randn", "relu", "reshape", "rsqrt", "sigmoid",
    "split", "sqrt", "squeeze", "stack", "std", "sum", "tanh", "tensor", "transpose", "tril",
    "triu", "unbind", "unsqueeze", "var", "where", "zeros", "zeros_like",
]  # fmt: skip


# --- new tensors ----------------------------------------------------------------------------------


def tensor(
    data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A Tensor that copies `data`; `Tensor(data)` shares the memory of an array."""
    array = raw(data)
    array = array.copy() if hasattr(array, "dtype") else array
    return Tensor(array, requires_grad, device, dtype)


def _size(size: tuple) -> tuple[int, ...]:
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], tuple | list) else size


def full(
    size: Sequence[int],
    fill_value: float,
    *,
    dtype: Any = None,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """`fill_value` in every element; its kind gives the dtype."""
    if dtype is None:
        dtype = DEFAULT_DTYPE if isinstance(fill_value, float) else np.asarray(fill_value).dtype
    return Tensor(module(device).full(tuple(size), fill_value, find_dtype(dtype)), requires_grad)


def zeros(
    *size: Any, dtype: Any = DEFAULT_DTYPE, device: str = "cpu", requires_grad: bool = False
) -> Tensor:
    """Zeros of shape `size`."""
    return Tensor(module(device).zeros(_size(size), find_dtype(dtype)), requires_grad)


def ones(
    *size: Any, dtype: Any = DEFAULT_DTYPE, device: str = "cpu", requires_grad: bool = False
) -> Tensor:
    """Ones of shape `size`."""
    return Tensor(module(device).ones(_size(size), find_dtype(dtype)), requires_grad)


def zeros_like(x: Tensor) -> Tensor:
    """Zeros of x's shape, dtype and device."""
    return zeros(x.shape, dtype=x.dtype, device=x.device)


def ones_like(x: Tensor) -> Tensor:
    """Ones of x's shape, dtype and device."""
    return ones(x.shape, dtype=x.dtype, device=x.device)


def arange(*bounds: float, dtype: Any = None, device: str = "cpu") -> Tensor:
    """`arange(end)`, `arange(start, end)` or `arange(start, end, step)`, the end left out."""
    if dtype is None and float in map(type, bounds):
        dtype = DEFAULT_DTYPE
    return Tensor(module(device).arange(*bounds), dtype=dtype)


def eye(n: int, *, dtype: Any = DEFAULT_DTYPE, device: str = "cpu") -> Tensor:
    """The n x n identity matrix."""
    return Tensor(module(device).eye(n, dtype=find_dtype(dtype)))


def randn(
    *size: Any, dtype: Any = DEFAULT_DTYPE, device: str = "cpu", requires_grad: bool = False
) -> Tensor:
    """Standard normal numbers from the default generator (`manual_seed`), drawn on the CPU."""
    numbers = default_generator.numpy.standard_normal(_size(size))
    return Tensor(numbers.astype(find_dtype(dtype)), requires_grad, device)


def rand(
    *size: Any, dtype: Any = DEFAULT_DTYPE, device: str = "cpu", requires_grad: bool = False
) -> Tensor:
    """Numbers uniform in [0, 1) from the default generator (`manual_seed`), drawn on the CPU."""
    numbers = default_generator.numpy.random(_size(size))
    return Tensor(numbers.astype(find_dtype(dtype)), requires_grad, device)


# --- ops on several tensors alike -----------------------------------------------------------------


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along `dim`; their other sizes must agree."""
    if not tensors:
        raise UserError("cat: no tensors given")
    return apply(shape.Cat, *tensors, dim=dim)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension `dim`."""
    if not tensors:
        raise UserError("stack: no tensors given")
    return apply(shape.Stack, *tensors, dim=dim)


def where(condition: Any, input: Any, other: Any) -> Tensor:
    """`input` where the boolean `condition` is true, `other` elsewhere; all three broadcast."""
    return apply(elementwise.Where, condition, input, other)


def maximum(input: Any, other: Any) -> Tensor:
    """The larger of each two elements; where they tie, each gets half the gradient."""
    return apply(elementwise.Maximum, input, other)


def minimum(input: Any, other: Any) -> Tensor:
    """The smaller of each two elements; where they tie, each gets half the gradient."""
    return apply(elementwise.Minimum, input, other)


def einsum(equation: str, *operands: Any) -> Tensor:
    """Einstein summation: `einsum("bij,bjk->bik", a, b)`. `...` broadcasts; without `->` the output
    has the indices that occur once, in alphabetical order; an index repeated in one operand is its
    diagonal."""
    return apply(Einsum, *operands, equation=equation)


# --- methods that PyTorch offers as functions too: `exp(x)` is `x.exp()` --------------------------

abs, exp, log, sqrt, rsqrt = Tensor.abs, Tensor.exp, Tensor.log, Tensor.sqrt, Tensor.rsqrt
tanh, sigmoid, relu, clamp, pow = (
    Tensor.tanh,
    Tensor.sigmoid,
    Tensor.relu,
    Tensor.clamp,
    Tensor.pow,
)
sum, mean, var, std, norm = Tensor.sum, Tensor.mean, Tensor.var, Tensor.std, Tensor.norm
max, min, amax, amin = Tensor.max, Tensor.min, Tensor.amax, Tensor.amin
argmax, argmin, any, all = Tensor.argmax, Tensor.argmin, Tensor.any, Tensor.all
logsumexp, cumsum, matmul = Tensor.logsumexp, Tensor.cumsum, Tensor.matmul
reshape, flatten, squeeze, unsqueeze = (
    Tensor.reshape,
    Tensor.flatten,
    Tensor.squeeze,
    Tensor.unsqueeze,
)
transpose, permute, broadcast_to = Tensor.transpose, Tensor.permute, Tensor.broadcast_to
split, chunk, unbind = Tensor.split, Tensor.chunk, Tensor.unbind
gather, index_select, masked_fill = Tensor.gather, Tensor.index_select, Tensor.masked_fill
tril, triu = Tensor.tril, Tensor.triu
