"""Tensor methods that change the shape or select elements.

Those that can return a view of the same memory do. Sizes and dims are given one by one or as a
tuple.
"""

from typing import TYPE_CHECKING, Any

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.ops import indexing, shape
from minillm.ops.op import raw
from minillm.ops.reduce import one_dim, some_dims

if TYPE_CHECKING:
    from minillm.tensor import Tensor


def _ints(args: tuple) -> tuple[int, ...]:
    """The sizes in `f(2, 3)` or `f((2, 3))`."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], tuple | list) else args


class Shapes:
    """reshape and its relatives, transposes, expand, split, indexing, gather, tril, triu."""

    __slots__ = ()
    apply: Any
    shape: tuple[int, ...]
    ndim: int
    data: Any

    # --- the same elements in another shape -------------------------------------------------------

    def reshape(self, *shape_: Any) -> "Tensor":
        """The elements in row-major order in another shape; one size may be -1. May copy."""
        return self.apply(shape.Reshape, shape=_ints(shape_))

    def view(self, *shape_: Any) -> "Tensor":
        """`reshape`, but a UserError if that needs a copy."""
        return self.apply(shape.Reshape, shape=_ints(shape_), view=True)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
        """Join the dimensions from `start_dim` to `end_dim` into one."""
        start, end = one_dim(start_dim, self.ndim), one_dim(end_dim, self.ndim)
        if start > end:
            raise UserError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
        size = 1
        for n in self.shape[start : end + 1]:
            size *= n
        return self.reshape(*self.shape[:start], size, *self.shape[end + 1 :])

    def squeeze(self, dim: int | tuple[int, ...] | None = None) -> "Tensor":
        """Drop dimensions of size 1: those in `dim`, or all."""
        dims = some_dims(dim, self.ndim)
        return self.reshape(
            tuple(n for i, n in enumerate(self.shape) if not (n == 1 and i in dims))
        )

    def unsqueeze(self, dim: int) -> "Tensor":
        """Insert a dimension of size 1 at `dim`."""
        dim = one_dim(dim, self.ndim + 1)
        return self.reshape((*self.shape[:dim], 1, *self.shape[dim:]))

    def permute(self, *dims: Any) -> "Tensor":
        """The dimensions in the order `dims`."""
        return self.apply(shape.Permute, dims=_ints(dims))

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        """Two dimensions exchanged."""
        dims = list(range(self.ndim))
        if dims:
            dim0, dim1 = one_dim(dim0, self.ndim), one_dim(dim1, self.ndim)
            dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
        return self.permute(dims)

    @property
    def T(self) -> "Tensor":
        """The dimensions in reverse order."""
        return self.permute(tuple(range(self.ndim))[::-1])

    @property
    def mT(self) -> "Tensor":
        """The last two dimensions exchanged."""
        return self.transpose(-1, -2)

    def expand(self, *sizes: Any) -> "Tensor":
        """Dimensions of size 1 repeated to `sizes`, a read-only view; -1 keeps a size."""
        return self.apply(shape.Expand, shape=_ints(sizes))

    def broadcast_to(self, shape_: tuple[int, ...]) -> "Tensor":
        """`expand` to a whole shape."""
        return self.apply(shape.Expand, shape=tuple(shape_))

    def contiguous(self) -> "Tensor":
        """This tensor if its elements lie in row-major order, else a copy in which they do."""
        return self if self.data.flags.c_contiguous else self.clone()

    def clone(self) -> "Tensor":
        """A differentiable copy, in row-major order."""
        return self.apply(shape.Clone)

    # --- parts ------------------------------------------------------------------------------------

    def split(self, split_size_or_sections: int | list[int], dim: int = 0) -> tuple["Tensor", ...]:
        """Views of consecutive parts along `dim`: all of one size but for a smaller last one, or of
        the sizes in a list that add up to the dimension."""
        dim = one_dim(dim, self.ndim)
        n, sizes = self.shape[dim], split_size_or_sections
        if isinstance(sizes, int):
            if sizes <= 0:
                raise UserError(f"split: the size of a part must be positive, got {sizes}")
            sizes = [min(sizes, n - start) for start in range(0, n, sizes)] or [0]
        if sum(sizes) != n or min(sizes, default=0) < 0:
            raise UserError(f"split: sizes {list(sizes)} do not add up to {n}, dim {dim}")
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        lead = (slice(None),) * dim
        return tuple(self[(*lead, slice(i, i + m))] for i, m in zip(starts, sizes))

    def chunk(self, chunks: int, dim: int = 0) -> tuple["Tensor", ...]:
        """At most `chunks` parts along `dim`, all of one size but for a smaller last one."""
        if chunks < 1:
            raise UserError(f"chunk: the number of chunks must be positive, got {chunks}")
        n = self.shape[one_dim(dim, self.ndim)]
        return self.split(max(1, -(-n // chunks)), dim)

    def unbind(self, dim: int = 0) -> tuple["Tensor", ...]:
        """The parts of size 1 along `dim`, without that dimension."""
        dim = one_dim(dim, self.ndim)
        return tuple(self[(slice(None),) * dim + (i,)] for i in range(self.shape[dim]))

    def __getitem__(self, key: Any) -> "Tensor":
        return self.apply(indexing.Index, key=indexing.raw_key(key, xp_of(self.data)))

    def __iter__(self) -> Any:
        return iter(self.unbind(0))

    def index_select(self, dim: int, index: Any) -> "Tensor":
        """The parts along `dim` that the 1-D integer `index` names, in its order."""
        if getattr(index, "ndim", 0) != 1:
            raise UserError("index_select: index must be an array of one dimension")
        return self[(slice(None),) * one_dim(dim, self.ndim) + (index,)]

    def gather(self, dim: int, index: Any) -> "Tensor":
        """Elements picked along `dim`: out[i][j] = self[index[i][j]][j] for dim 0, and so on."""
        dim = one_dim(dim, self.ndim)
        return self.apply(indexing.Gather, dim=dim, index=raw(index))

    def tril(self, diagonal: int = 0) -> "Tensor":
        """The last two dimensions' lower triangle, up to `diagonal` above the main one, else 0."""
        return self.apply(shape.Tril, diagonal=diagonal)

    def triu(self, diagonal: int = 0) -> "Tensor":
        """The last two dimensions' upper triangle, from `diagonal` above the main one, else 0."""
        return self.apply(shape.Triu, diagonal=diagonal)
