"""Layer normalisation in CUDA C++: what the steps of the ladder, the .cu files here, are given."""

from minillm.device import xp_of
from minillm.kernels.runtime.cuda import accum, blocks
from minillm.kernels.runtime.rows import row_block


def layer_norm_forward(program, x, weight, bias, eps):
    xp, (N, C) = xp_of(x), x.shape
    x = xp.ascontiguousarray(x)
    y, mean = xp.empty_like(x), xp.empty(N, accum(x.dtype))
    rstd = xp.empty_like(mean)
    lanes, rows = row_block(program, C * x.itemsize)
    args = (y, mean, rstd, x, weight, bias, eps, N, C)
    grid = blocks(N, rows)
    program.launch("layer_norm_forward", x.dtype, grid, *args, block=(lanes, rows))
    return y, mean, rstd


def layer_norm_backward(program, dy, x, weight, mean, rstd):
    xp, (N, C) = xp_of(x), x.shape
    dy, x = xp.ascontiguousarray(dy), xp.ascontiguousarray(x)
    dx, dweight, dbias = xp.empty_like(x), xp.empty_like(weight), xp.empty_like(weight)
    lanes, rows = row_block(program, C * x.itemsize)
    parts = min(blocks(N, rows), program.PARTS)
    partial = xp.empty((2, parts, C), accum(x.dtype))
    args = (dx, partial, dy, x, weight, mean, rstd, N, C)
    program.launch("layer_norm_backward", x.dtype, parts, *args, block=(lanes, rows))
    # A second stage: sums by atomics would depend on the order in which blocks end.
    grid, block = blocks(C, program.COLUMNS), (program.COLUMNS, program.SLICES)
    args = (dweight, dbias, partial, parts, C)
    program.launch("layer_norm_total", x.dtype, grid, *args, block=block)
    return dx, dweight, dbias
