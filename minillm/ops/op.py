"""What an op is: a forward and a backward on plain arrays, with no Tensor in sight.

    class Exp(Op):
        '''y = e^x,  dx = dy y.'''

        @staticmethod
        def forward(x):
            y = xp_of(x).exp(x)
            return y, (y,)

        @staticmethod
        def backward(dy, saved, needs):
            (y,) = saved
            return (dy * y,)

`forward(*inputs, **params)` returns the output and what the backward needs; arrays come as
positional inputs, everything else as keywords. `backward(dy, saved, needs)` returns one gradient an
input, or None where there is none; `needs[i]` says whether input i wants one, so that costly ones
are skipped. An op without a backward is not recorded: its result never requires a gradient.

An op of one input that only selects from it may also give `scatter(whole, dy, saved)`, which adds
dy into its place in the input's gradient: three slices of one array then share one array of zeros.
Gradients returned may share memory with `dy`: the engine never writes into an array it was handed.
An op with `overwrites = True` writes its gradient into an array it saved; the engine gives it
copies where the graph is retained for another backward. An op that saves no array may say so by
`lasting = True`: backward leaves its nodes whole, so that several graphs can share one.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from minillm.device import Array, device_of, xp_of
from minillm.errors import UserError


class Op:
    """Base of all ops; never instantiated. `name` is the class name in snake case."""

    name: ClassVar[str] = "op"
    forward: ClassVar[Callable[..., tuple[Array, tuple]]]
    backward: ClassVar[Callable[[Array, tuple, Sequence[bool]], tuple[Any, ...]] | None] = None
    scatter: ClassVar[Callable[[Array, Array, tuple], None] | None] = None
    overwrites: ClassVar[bool] = False
    lasting: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def raw(value: Any) -> Any:
    """The array of a Tensor; anything else as it is."""
    return value.data if hasattr(value, "grad_buffer") else value


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array; () for a number."""
    return getattr(x, "shape", ())


def broadcasting(name: str, function: Callable, x: Any, y: Any) -> Array:
    """`function(x, y)`, with both shapes in the message if they do not fit."""
    try:
        return function(x, y)
    except ValueError as error:
        if "broadcast" not in str(error):
            raise
        raise UserError(
            f"{name}: shapes {shape_of(x)} and {shape_of(y)} do not broadcast"
        ) from None


def check_devices(name: str, inputs: Sequence) -> None:
    """Raise UserError if some arrays are on the CPU and others on a GPU: why an op has failed."""
    arrays = [x for x in inputs if hasattr(x, "nbytes") and not isinstance(x, np.generic)]
    if len({device_of(x) for x in arrays}) > 1:
        raise UserError(
            f"{name}: some inputs are on the CPU, others on a GPU: bring them together with"
            " .to('cpu') or .to('cuda')"
        ) from None


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum `grad` down to `shape`: the adjoint of broadcasting `shape` up to `grad.shape`."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    stretched = [i for i, n in enumerate(shape, extra) if n == 1 and grad.shape[i] != 1]
    wide = None if grad.dtype.itemsize >= 4 else "float32"
    total = grad.sum(axis=(*range(extra), *stretched), keepdims=True, dtype=wide)
    return total.reshape(shape).astype(grad.dtype, copy=False)


def where(condition: Array, x: Any, y: Any) -> Array:
    """x where `condition`, else y, in the dtype of the first of them that is an array. The array
    libraries' own `where` answers in float32 or float64 for some bfloat16 inputs."""
    z = xp_of(condition).where(condition, x, y)
    return z.astype(x.dtype if hasattr(x, "dtype") else y.dtype, copy=False)


def rows(x: Array) -> Array:
    """`x` as contiguous rows, `(..., C) -> (N, C)`: the layout the row kernels take."""
    n = x.size // x.shape[-1] if x.shape[-1] else 0
    return xp_of(x).ascontiguousarray(x).reshape(n, x.shape[-1])
