"""Rotary embedding in CUDA C++: what the steps of the ladder, the .cu files here, are given."""

from minillm.device import xp_of
from minillm.kernels.runtime.cuda import Strided, accum, blocks
from minillm.kernels.runtime.flat import ENOUGH_BLOCKS


def rotary(program, x, cos, sin, inverse):
    xp, (B, H, T, D) = xp_of(x), x.shape
    if x.strides[-1] != x.itemsize or any(stride % x.itemsize for stride in x.strides):
        x = xp.ascontiguousarray(x)
    cos, sin = (xp.ascontiguousarray(a, accum(x.dtype)) for a in (cos, sin))
    y = xp.empty(x.shape, x.dtype)
    # A block takes a tile of the T D/2 pairs of a head, in several heads: in fewer of them where
    # that makes too few blocks to fill a GPU.
    tiles = blocks(T * (D // 2), program.THREADS * program.PAIRS)
    groups = max(blocks(B * H, program.HEADS), min(B * H, blocks(ENOUGH_BLOCKS, max(tiles, 1))))
    strides = (stride // x.itemsize for stride in x.strides[:3])
    program.launch(
        "rotary", x.dtype, tiles * groups, y, Strided(x), cos, sin, inverse,
        tiles, B * H, H, T * (D // 2), D // 2, *strides,
    )  # fmt: skip
    return y
