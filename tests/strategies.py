"""Arrays as users hand them over: permuted, sliced, broadcast, of size 1, empty, 0-d.

`arrays()` draws a float64 array of any small shape in any layout, `arrays(shape=...)` one of that
shape; `pairs()` draws two whose shapes broadcast. Values follow from a drawn seed.
"""

import numpy as np
from hypothesis import strategies as st


def shapes(min_dims: int = 0, max_dims: int = 4, min_side: int = 0) -> st.SearchStrategy:
    """Shapes with few elements, sizes 0 and 1 included."""
    return st.lists(
        st.integers(min_side, 4), min_size=min_dims, max_size=max_dims
    ).map(tuple)  # fmt: skip


@st.composite
def arrays(draw, shape=None, low=-2.0, high=2.0, gap=0.0, distinct=False, **shape_options):
    """A float64 array in a drawn layout.

    Args:
        shape: its shape; None draws one with `shapes(**shape_options)`.
        low, high: range of the values.
        gap: no value is nearer to 0 than this (for functions with a kink there).
        distinct: all values differ by far more than a finite difference, so none is broadcast.
    """
    shape = draw(shapes(**shape_options)) if shape is None else shape
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 2, -1])) for _ in shape]
    repeat = [not distinct and draw(st.sampled_from([False, False, False, True])) for _ in shape]
    sides = [1 if r and n else n * abs(s) for n, s, r in zip(shape, steps, repeat)]
    memory_shape = [sides[axis] for axis in order]
    n = int(np.prod(memory_shape))
    values = rng.permutation(np.linspace(low, high, n)) if distinct else rng.uniform(low, high, n)
    values += np.sign(values) * gap
    x = values.reshape(memory_shape).transpose(np.argsort(order).astype(int))
    x = x[tuple(slice(None, None, 1 if r else s) for s, r in zip(steps, repeat))]
    return np.broadcast_to(x, shape) if any(repeat) else x


@st.composite
def pairs(draw, **options):
    """Two arrays whose shapes broadcast together."""
    full = draw(shapes())
    both = []
    for _ in range(2):
        shape = tuple(draw(st.sampled_from([n, n, 1])) for n in full)
        both.append(draw(arrays(shape=shape[draw(st.integers(0, len(shape))) :], **options)))
    return tuple(both)


@st.composite
def with_dim(draw, **options):
    """An array of at least one dimension, and one of its dims, counted from either end."""
    x = draw(arrays(min_dims=1, **options))
    return x, draw(st.integers(-x.ndim, x.ndim - 1))
