"""Tensor methods that write into the tensor's memory.

A change is not differentiated, so a tensor that requires a gradient refuses it outside `no_grad`.
Every change counts the version up, by which backward notices that a saved array is not what it was.
"""

from typing import TYPE_CHECKING, Any

from minillm.autograd import Version, is_grad_enabled
from minillm.device import Array, to_device, xp_of
from minillm.ops.indexing import raw_key
from minillm.ops.op import check_devices, raw

if TYPE_CHECKING:
    from minillm.tensor import Tensor


class InPlace:
    """copy_, fill_, zero_, add_, mul_, item assignment; `+=` and its like."""

    __slots__ = ()
    data: Array
    version: Version
    requires_grad: bool

    def _write(self, what: str, other: Any = None) -> Array:
        """The array, to be written: refuses what backward could not follow, counts the rest.

        Args:
            other: what is written into it.
        """
        if is_grad_enabled() and (self.requires_grad or getattr(other, "requires_grad", False)):
            verb = "change" if self.requires_grad else "copy the values of"
            raise RuntimeError(
                f"{what} would {verb} a tensor that requires a gradient; use the out-of-place op,"
                " or no_grad() if this is not to be differentiated"
            )
        self.version.count += 1
        return self.data

    def _update(self: Any, what: str, other: Any) -> tuple[Array, Any]:
        """The array, to be written, and what it is changed by, which must be on its device."""
        check_devices(what, (self.data, raw(other)))
        return self._write(what, other), raw(other)

    def copy_(self: Any, other: Any) -> "Tensor":
        """Overwrite with `other`, broadcast to this shape; it may be on another device."""
        self._write("copy_", other)[...] = _moved(other, self.device)
        return self

    def fill_(self: Any, value: Any) -> "Tensor":
        """Overwrite every element with `value`, a number or a 0-d Tensor."""
        self._write("fill_", value)[...] = raw(value)
        return self

    def zero_(self: Any) -> "Tensor":
        """Overwrite with zeros."""
        self._write("zero_")[...] = 0
        return self

    def add_(self: Any, other: Any, alpha: float = 1) -> "Tensor":
        """Add `alpha * other`."""
        data, other = self._update("add_", other)
        data += other if alpha == 1 else alpha * other
        return self

    def mul_(self: Any, other: Any) -> "Tensor":
        """Multiply by `other`."""
        data, other = self._update("mul_", other)
        data *= other
        return self

    def __setitem__(self: Any, key: Any, value: Any) -> None:
        data = self._write("item assignment", value)
        data[raw_key(key, xp_of(data))] = _moved(value, self.device)

    # Where a gradient has to flow, `x += y` makes a new x, as it does for numbers. A leaf that
    # requires one refuses: its new value would no longer be the leaf that the optimiser knows.

    def __iadd__(self: Any, other: Any) -> "Tensor":
        return self + other if _flows(self, other) else self.add_(other)

    def __isub__(self: Any, other: Any) -> "Tensor":
        return self - other if _flows(self, other) else self.add_(other, alpha=-1)

    def __imul__(self: Any, other: Any) -> "Tensor":
        return self * other if _flows(self, other) else self.mul_(other)

    def __itruediv__(self: Any, other: Any) -> "Tensor":
        if _flows(self, other):
            return self / other
        data, other = self._update("/=", other)
        data /= other
        return self


def _moved(value: Any, device: str) -> Any:
    value = raw(value)
    return to_device(value, device) if hasattr(value, "nbytes") else value


def _flows(x: Any, other: Any) -> bool:
    if not is_grad_enabled():
        return False
    return not x.is_leaf or (getattr(other, "requires_grad", False) and not x.requires_grad)
