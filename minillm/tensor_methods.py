"""The named methods and operators of Tensor, by what they compute; each hands itself to an op.

This file: arithmetic, comparisons and functions of single elements. Reductions are in
tensor_reductions.py, shapes and selections in tensor_shapes.py. Names and meaning are PyTorch's.
"""

import operator
from typing import TYPE_CHECKING, Any

from minillm.errors import UserError
from minillm.ops import arithmetic, elementwise
from minillm.ops.arithmetic import Compare
from minillm.ops.matmul import MatMul
from minillm.tensor_reductions import Reductions
from minillm.tensor_shapes import Shapes

if TYPE_CHECKING:
    from minillm.tensor import Tensor


class TensorMethods(Reductions, Shapes):
    """What a Tensor can do that is an op."""

    __slots__ = ()
    apply: Any
    apply_last: Any
    dtype: Any
    shape: tuple[int, ...]

    # --- arithmetic with a Tensor, array or number, broadcasting ----------------------------------

    def __add__(self, other: Any) -> "Tensor":
        return self.apply(arithmetic.Add, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Tensor":
        return self.apply(arithmetic.Sub, other)

    def __rsub__(self, other: Any) -> "Tensor":
        return self.apply_last(arithmetic.Sub, other)

    def __mul__(self, other: Any) -> "Tensor":
        return self.apply(arithmetic.Mul, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Tensor":
        return self.apply(arithmetic.Div, other)

    def __rtruediv__(self, other: Any) -> "Tensor":
        return self.apply_last(arithmetic.Div, other)

    def __floordiv__(self, other: Any) -> "Tensor":
        return self.apply(arithmetic.FloorDiv, other)

    def __rfloordiv__(self, other: Any) -> "Tensor":
        return self.apply_last(arithmetic.FloorDiv, other)

    def __mod__(self, other: Any) -> "Tensor":
        return self.apply(arithmetic.Remainder, other)

    def __rmod__(self, other: Any) -> "Tensor":
        return self.apply_last(arithmetic.Remainder, other)

    def __pow__(self, other: Any) -> "Tensor":
        return self.apply(arithmetic.Pow, other)

    def __rpow__(self, other: Any) -> "Tensor":
        return self.apply_last(arithmetic.Pow, other)

    def __neg__(self) -> "Tensor":
        return self.apply(arithmetic.Neg)

    def __matmul__(self, other: Any) -> "Tensor":
        return self.apply(MatMul, other)

    def __rmatmul__(self, other: Any) -> "Tensor":
        return self.apply_last(MatMul, other)

    # --- comparisons and masks, without gradients -------------------------------------------------

    def __eq__(self, other: Any) -> "Tensor":  # type: ignore[override]
        return self.apply(Compare, other, function=operator.eq)

    def __ne__(self, other: Any) -> "Tensor":  # type: ignore[override]
        return self.apply(Compare, other, function=operator.ne)

    def __lt__(self, other: Any) -> "Tensor":
        return self.apply(Compare, other, function=operator.lt)

    def __le__(self, other: Any) -> "Tensor":
        return self.apply(Compare, other, function=operator.le)

    def __gt__(self, other: Any) -> "Tensor":
        return self.apply(Compare, other, function=operator.gt)

    def __ge__(self, other: Any) -> "Tensor":
        return self.apply(Compare, other, function=operator.ge)

    def __and__(self, other: Any) -> "Tensor":
        return self.apply(Compare, other, function=operator.and_)

    __rand__ = __and__

    def __or__(self, other: Any) -> "Tensor":
        return self.apply(Compare, other, function=operator.or_)

    __ror__ = __or__

    def __xor__(self, other: Any) -> "Tensor":
        return self.apply(Compare, other, function=operator.xor)

    __rxor__ = __xor__

    def __invert__(self) -> "Tensor":
        ones = True if self.dtype == bool else -1
        return self.apply(Compare, ones, function=operator.xor)

    # --- functions of each element ----------------------------------------------------------------

    def exp(self) -> "Tensor":
        """e^x."""
        return self.apply(elementwise.Exp)

    def log(self) -> "Tensor":
        """Natural logarithm."""
        return self.apply(elementwise.Log)

    def sqrt(self) -> "Tensor":
        """x^1/2."""
        return self.apply(elementwise.Sqrt)

    def rsqrt(self) -> "Tensor":
        """x^-1/2."""
        return self.apply(elementwise.Rsqrt)

    def tanh(self) -> "Tensor":
        """Hyperbolic tangent."""
        return self.apply(elementwise.Tanh)

    def sigmoid(self) -> "Tensor":
        """1 / (1 + e^-x)."""
        return self.apply(elementwise.Sigmoid)

    def relu(self) -> "Tensor":
        """max(x, 0)."""
        return self.apply(elementwise.Relu)

    def abs(self) -> "Tensor":
        """|x|, with derivative 0 at 0."""
        return self.apply(elementwise.Abs)

    __abs__ = abs
    pow = __pow__
    matmul = __matmul__

    def clamp(self, min: float | None = None, max: float | None = None) -> "Tensor":
        """x limited to [min, max]; None leaves a side open. The gradient passes at the bounds."""
        return self.apply(elementwise.Clamp, min=min, max=max)

    def masked_fill(self, mask: Any, value: Any) -> "Tensor":
        """x with `value`, a number or a 0-d Tensor, where `mask` is true: booleans that broadcast
        to x's shape."""
        out = self.apply_last(elementwise.Where, mask, value)
        if out.shape != self.shape:
            raise UserError(f"masked_fill: mask {mask.shape} does not fit shape {self.shape}")
        return out if out.dtype == self.dtype else out.to(self.dtype)
