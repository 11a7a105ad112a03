"""Mixed precision in PyTorch's manner: parameters stay float32, products are made in bfloat16.

    with minillm.autocast("bfloat16"):
        loss = model(x, y)[1]
    loss.backward()

Inside the block, each op's inputs are cast on their way in, by what kind of op it is: bfloat16 for
matrix products and attention, where the time goes; float32 for norms, softmax, sums, losses,
powers and logarithms, where digits go. Any other op takes what comes, in the widest dtype that
meets (so the residual stream, a sum with a float32 embedding, stays float32). The casts are ops
themselves: gradients arrive in the dtype of what was cast, float32 for float32 parameters.

The lists are those of torch.autocast for GPUs, but for cross_entropy, which reads bfloat16 logits
and computes in float32 inside, and for mean, var, std and logsumexp, which count as sums here.
bfloat16 has the range of float32, so no loss scaling is needed; float16 would need it.
"""

from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from typing import Any

import numpy as np

from minillm import env
from minillm.autograd import mode
from minillm.errors import UserError
from minillm.ops.arithmetic import Cast
from minillm.ops.dtypes import find_dtype
from minillm.ops.op import Op, raw

_NARROW = frozenset(("linear", "mat_mul", "einsum", "scaled_dot_product_attention"))
_WIDE = frozenset((
    "softmax", "log_softmax", "layer_norm", "rms_norm", "softplus", "exp", "log", "pow", "rsqrt",
    "sum", "mean", "var", "std", "norm", "log_sum_exp", "cum_sum", "nll_loss", "mse_loss",
    "binary_cross_entropy_with_logits",
))  # fmt: skip


class autocast(ContextDecorator):
    """Run matrix products and attention in `dtype` inside a `with` block or a decorated function.

    Backward needs no block: it runs in the dtypes of the forward. float64 is left alone. One object
    may be entered many times.

    Args:
        dtype: "bfloat16".
        enabled: False computes inside as if there were no autocast, also within another block.

    Raises:
        UserError: another dtype.
    """

    def __init__(self, dtype: Any = "bfloat16", enabled: bool = True):
        if getattr(dtype, "__name__", str(dtype)) != "bfloat16":
            raise UserError(f"autocast to {dtype!r}: only 'bfloat16' is supported")
        self.enabled = enabled

    def __enter__(self) -> "autocast":
        mode.around = (*mode.around, mode.autocast)
        mode.autocast = _Casts(find_dtype("bfloat16")) if self.enabled else None
        return self

    def __exit__(self, *error: Any) -> None:
        *around, mode.autocast = mode.around
        mode.around = tuple(around)


class _Casts:
    """The casts of one block. A weight is cast once, not once a use: the cast is kept."""

    def __init__(self, dtype: np.dtype):
        self.dtype, self.wide = dtype, np.dtype("float32")
        self.casts: dict[int, tuple[Any, int, Any]] = {}  # weight, its version then, the cast

    def cast(self, op: type[Op], inputs: Sequence, apply: Callable) -> Sequence:
        """`inputs` of `op` in the dtype it is to compute in."""
        if op.name in _NARROW:
            return [self._narrow(x, apply) if _is(x, self.wide) else x for x in inputs]
        if op.name in _WIDE:
            return [_to(x, self.wide, apply) if _is(x, self.dtype) else x for x in inputs]
        return inputs

    def _narrow(self, x: Any, apply: Callable) -> Any:
        if isinstance(raw(x), np.ndarray):
            env.say_once(
                "bfloat16 on a CPU is computed in float32 and rounded: it is slower than float32"
            )
        if not getattr(x, "_requires_grad", False):
            return _to(x, self.dtype, apply)
        kept = self.casts.get(id(x))
        if kept is None or not _still_good(x, *kept):
            kept = self.casts[id(x)] = x, x.version.count, _to(x, self.dtype, apply)
        return kept[2]


def _is(x: Any, dtype: np.dtype) -> bool:
    return getattr(x, "dtype", None) == dtype and hasattr(x, "ndim")


def _to(x: Any, dtype: np.dtype, apply: Callable) -> Any:
    return apply(Cast, x, dtype=dtype) if hasattr(x, "grad_buffer") else x.astype(dtype)


def _still_good(x: Any, weight: Any, version: int, cast: Any) -> bool:
    """Whether an earlier cast has x's values now, and the graph that is being recorded needs."""
    if weight is not x or version != x.version.count:
        return False
    return (cast.node is not None) == mode.enabled  # recorded, if ops are being recorded
