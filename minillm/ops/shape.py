"""Other shapes of the same elements, and arrays put together.

Reshape, Permute and Expand return views where they can; their gradients are views as well.
"""

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.ops.dtypes import result_dtype
from minillm.ops.op import Op, unbroadcast
from minillm.ops.reduce import one_dim


class Reshape(Op):
    """y = x in another shape (one size may be -1),  dx = dy in x's. `view` forbids copying."""

    @staticmethod
    def forward(x, *, shape, view=False):
        try:
            y = x.reshape(shape)
        except ValueError:
            raise UserError(
                f"reshape: {x.shape} has {x.size} elements, which do not fill {shape}"
            ) from None
        if view and x.size and not xp_of(x).may_share_memory(x, y):
            raise UserError(
                f"view: {x.shape} with strides {x.strides} cannot be seen as {shape} without"
                " copying; use reshape()"
            )
        return y, (x.shape,)

    @staticmethod
    def backward(dy, saved, needs):
        return (dy.reshape(saved[0]),)


class Permute(Op):
    """y[i_dims[0], i_dims[1], ...] = x[i_0, i_1, ...],  dx by the inverse permutation."""

    @staticmethod
    def forward(x, *, dims):
        try:
            return x.transpose(dims), (dims,)
        except ValueError:
            raise UserError(
                f"permute: dims {dims} do not name each dimension of shape {x.shape} once"
            ) from None

    @staticmethod
    def backward(dy, saved, needs):
        (dims,) = saved
        n = len(dims)
        return (dy.transpose(sorted(range(n), key=lambda i: dims[i] % n)),)


class Expand(Op):
    """y = x broadcast to `shape` (-1 keeps a size), a view,  dx = dy summed over the copies."""

    @staticmethod
    def forward(x, *, shape):
        extra = len(shape) - x.ndim
        full = tuple(
            x.shape[i - extra] if n == -1 and i >= extra else n for i, n in enumerate(shape)
        )
        try:
            return xp_of(x).broadcast_to(x, full), (x.shape,)
        except ValueError:
            raise UserError(f"expand: shape {x.shape} does not broadcast to {shape}") from None

    @staticmethod
    def backward(dy, saved, needs):
        return (unbroadcast(dy, saved[0]),)


class Clone(Op):
    """y = x in memory of its own, C-contiguous,  dx = dy."""

    @staticmethod
    def forward(x):
        return x.copy(), ()

    @staticmethod
    def backward(dy, saved, needs):
        return (dy,)


class Cat(Op):
    """y = arrays one after the other along `dim`,  each dx its part of dy."""

    @staticmethod
    def forward(*arrays, dim):
        dim = one_dim(dim, arrays[0].ndim)
        sizes = _joined("cat", arrays, dim)
        y = xp_of(arrays[0]).concatenate(_alike(arrays), axis=dim)
        return y, (dim, sizes)

    @staticmethod
    def backward(dy, saved, needs):
        dim, sizes = saved
        grads, start = [], 0
        for n in sizes:
            grads.append(dy[(slice(None),) * dim + (slice(start, start + n),)])
            start += n
        return tuple(grads)


class Stack(Op):
    """y = arrays of one shape along a new `dim`,  each dx its part of dy."""

    @staticmethod
    def forward(*arrays, dim):
        dim = one_dim(dim, arrays[0].ndim + 1)
        _joined("stack", arrays, None)
        return xp_of(arrays[0]).stack(_alike(arrays), axis=dim), (dim,)

    @staticmethod
    def backward(dy, saved, needs):
        (dim,) = saved
        return tuple(dy[(slice(None),) * dim + (i,)] for i in range(dy.shape[dim]))


def _joined(name, arrays, dim):
    """The sizes along `dim`, which alone may differ (None: no dimension may)."""
    rests = {tuple(n for d, n in enumerate(a.shape) if d != dim) for a in arrays}
    if len(rests) > 1 or (dim is not None and arrays[0].ndim == 0):
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise UserError(f"{name}: shapes {shapes} do not fit together along dim {dim}")
    return [a.shape[dim] for a in arrays] if dim is not None else []


def _alike(arrays):
    dtype = result_dtype(*arrays)
    return [a.astype(dtype, copy=False) for a in arrays]


class Tril(Op):
    """y = x on and below the given diagonal of the last two dimensions, 0 above;  dx likewise."""

    @staticmethod
    def forward(x, *, diagonal):
        return _triangle("tril", x, diagonal), (diagonal,)

    @staticmethod
    def backward(dy, saved, needs):
        return (_triangle("tril", dy, saved[0]),)


class Triu(Op):
    """y = x on and above the given diagonal of the last two dimensions, 0 below;  dx likewise."""

    @staticmethod
    def forward(x, *, diagonal):
        return _triangle("triu", x, diagonal), (diagonal,)

    @staticmethod
    def backward(dy, saved, needs):
        return (_triangle("triu", dy, saved[0]),)


def _triangle(name, x, diagonal):
    if x.ndim < 2:
        raise UserError(f"{name}: needs at least 2 dimensions, got shape {x.shape}")
    y = getattr(xp_of(x), name)(x, diagonal)
    return y.astype(x.dtype, copy=False)  # of bfloat16, CuPy's is float32
