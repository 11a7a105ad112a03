"""Selecting parts of an array: basic and advanced keys, and gather.

    y = x[key],   dx = 0 but for dx[key] += dy

Basic keys (integers, slices, None, ...) give views and touch no element twice. Advanced keys
(integer or boolean arrays) copy, and may name an element many times: its gradients are summed,
always in the same order. `scatter` adds straight into a pending gradient, so that the slices of one
array share one.
"""

import operator

import numpy as np

from minillm.device import device_of, to_device, xp_of
from minillm.errors import UserError
from minillm.ops.op import Op, raw


def raw_key(key, xp):
    """`key` for arrays of `xp`: arrays for Tensors and lists, from whatever device, plain integers
    for 0-d ones.

    Basic keys end in `...`, so that the result is a view even if nothing but one element is left.
    """
    items = [_raw_item(item, xp) for item in (key if isinstance(key, tuple) else (key,))]
    for item in items:
        if item is Ellipsis or hasattr(item, "dtype"):
            return tuple(items)
    return (*items, Ellipsis)


def _raw_item(item, xp):
    if type(item) is int or item is None or item is Ellipsis:
        return item
    if isinstance(item, slice):
        return slice(_integer(item.start), _integer(item.stop), _integer(item.step))
    item = raw(item)
    if isinstance(item, (list, range)):
        item = np.asarray(item, dtype=None if len(item) else np.intp)
    elif isinstance(item, (bool, np.bool_)):
        item = np.asarray(item)
    if not hasattr(item, "dtype"):
        return operator.index(item)
    if item.dtype.kind not in "biu":
        raise UserError(f"an index must be an integer or a boolean array, not {item.dtype}")
    if item.ndim == 0 and item.dtype.kind != "b":
        return int(item)
    return to_device(item, "cpu" if xp is np else "cuda")


def _integer(i):
    return i if i is None or type(i) is int else operator.index(i)


def add_at(whole, key, dy):
    """whole[key] += dy, with repeated elements added one after the other."""
    arrays = [item for item in key if hasattr(item, "dtype")]
    if all(a.dtype.kind == "b" for a in arrays):  # names no element twice
        whole[key] += dy
    elif xp_of(whole) is np:
        np.add.at(whole, key, dy)
    else:
        _add_in_rounds(whole, key, dy)


def _add_in_rounds(whole, key, dy):
    """`add_at` without atomics, whose order changes from run to run: round r adds the r-th mention
    of each element."""
    xp = xp_of(whole)
    places = xp.arange(whole.size).reshape(whole.shape)[key].ravel()
    order = xp.argsort(places, kind="stable")
    places, dy = places[order], dy.ravel()[order]
    mention = xp.arange(places.size) - xp.searchsorted(places, places)
    flat = whole.reshape(-1)  # a view: gradients of wholes are contiguous
    for r in range(int(mention.max()) + 1 if places.size else 0):
        now = mention == r
        flat[places[now]] += dy[now]


class Index(Op):
    """y = x[key],  dx[key] += dy. `key` comes from `raw_key`."""

    @staticmethod
    def forward(x, *, key):
        kept = tuple(item.copy() if hasattr(item, "dtype") else item for item in key)
        return x[key], (x.shape, kept)

    @staticmethod
    def backward(dy, saved, needs):
        dx = xp_of(dy).zeros(saved[0], dy.dtype)
        Index.scatter(dx, dy, saved)
        return (dx,)

    @staticmethod
    def scatter(whole, dy, saved):
        add_at(whole, saved[1], dy)


class Gather(Op):
    """y[i][j] = x[index[i][j]][j] for dim = 0 (and so on),  dx[index[i][j]][j] += dy[i][j].

    `index` has as many dimensions as x and is not longer in any but `dim`.
    """

    @staticmethod
    def forward(x, *, dim, index):
        if index.ndim != x.ndim or any(
            n > m for d, (n, m) in enumerate(zip(index.shape, x.shape)) if d != dim
        ):
            raise UserError(
                f"gather: index of shape {index.shape} does not fit x of shape {x.shape} along dim"
                f" {dim}"
            )
        xp = xp_of(x)
        key = [
            xp.arange(n).reshape(tuple(n if i == d else 1 for i in range(x.ndim)))
            for d, n in enumerate(index.shape)
        ]
        key[dim : dim + 1] = (
            [xp.array(to_device(index, device_of(x)))] if x.ndim else []
        )  # 0-d: its only element
        key = tuple(key)
        return x[key], (x.shape, key)

    backward = Index.backward
    scatter = Index.scatter
