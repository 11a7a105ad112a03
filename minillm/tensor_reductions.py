"""Tensor methods that reduce dimensions, and cumsum.

`dim` counts from 0, or from the end if negative; where it may be a tuple, None means all
dimensions. `keepdim` leaves reduced dimensions in place with size 1.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from minillm.ops import extrema, reduce

if TYPE_CHECKING:
    from minillm.tensor import Tensor

Dims = int | tuple[int, ...] | None


class Extremum(NamedTuple):
    """What `max(dim)` and `min(dim)` return."""

    values: "Tensor"
    indices: "Tensor"


class Reductions:
    """sum, mean, var, std, logsumexp, norm, cumsum; max, min and their kin; any, all."""

    __slots__ = ()
    apply: Any

    def sum(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Sum over `dim`. Integers and booleans sum in int64."""
        return self.apply(reduce.Sum, dim=dim, keepdim=keepdim)

    def mean(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Mean over `dim`; floating dtypes only."""
        return self.apply(reduce.Mean, dim=dim, keepdim=keepdim)

    def var(self, dim: Dims = None, *, correction: float = 1, keepdim: bool = False) -> "Tensor":
        """Variance over `dim`: squared deviations summed, divided by `n - correction`."""
        return self.apply(reduce.Var, dim=dim, keepdim=keepdim, correction=correction)

    def std(self, dim: Dims = None, *, correction: float = 1, keepdim: bool = False) -> "Tensor":
        """Standard deviation over `dim`, the square root of `var`."""
        return self.apply(reduce.Std, dim=dim, keepdim=keepdim, correction=correction)

    def logsumexp(self, dim: Dims, keepdim: bool = False) -> "Tensor":
        """log of the sum of e^x over `dim`, without overflow."""
        return self.apply(reduce.LogSumExp, dim=dim, keepdim=keepdim)

    def norm(self, p: float = 2, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """(sum |x|^p)^1/p over `dim`; the largest |x| for p = inf."""
        return self.apply(reduce.Norm, p=p, dim=dim, keepdim=keepdim)

    def cumsum(self, dim: int) -> "Tensor":
        """Sums of the elements up to each, along `dim`."""
        return self.apply(reduce.CumSum, dim=dim)

    def max(self, dim: int | None = None, keepdim: bool = False) -> "Tensor | Extremum":
        """The largest element; with `dim`, the largest along it and their (first) positions."""
        if dim is None:
            return self.amax()
        return self._extremum(self.argmax(dim, keepdim=True), dim, keepdim)

    def min(self, dim: int | None = None, keepdim: bool = False) -> "Tensor | Extremum":
        """The smallest element; with `dim`, the smallest along it and their (first) positions."""
        if dim is None:
            return self.amin()
        return self._extremum(self.argmin(dim, keepdim=True), dim, keepdim)

    def _extremum(self: Any, indices: "Tensor", dim: int, keepdim: bool) -> Extremum:
        values = self.gather(dim, indices)
        if keepdim:
            return Extremum(values, indices)
        return Extremum(values.squeeze(dim), indices.squeeze(dim))

    def amax(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Largest over `dim`; elements that tie share the gradient equally."""
        return self.apply(extrema.Amax, dim=dim, keepdim=keepdim)

    def amin(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Smallest over `dim`; elements that tie share the gradient equally."""
        return self.apply(extrema.Amin, dim=dim, keepdim=keepdim)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> "Tensor":
        """Position of the first largest along `dim`; None: in the flattened tensor."""
        return self.apply(extrema.Argmax, dim=dim, keepdim=keepdim)

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> "Tensor":
        """Position of the first smallest along `dim`; None: in the flattened tensor."""
        return self.apply(extrema.Argmin, dim=dim, keepdim=keepdim)

    def any(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Whether any element over `dim` is nonzero."""
        return self.apply(extrema.Any, dim=dim, keepdim=keepdim)

    def all(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Whether all elements over `dim` are nonzero."""
        return self.apply(extrema.All, dim=dim, keepdim=keepdim)
