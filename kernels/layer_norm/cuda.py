"""Layer normalisation in CUDA C++: what the steps of the ladder, the .cu files here, are given."""

from minillm.device import xp_of
from minillm.kernels.runtime.cuda import accum, blocks


def layer_norm_forward(program, x, weight, bias, eps):
    xp, (N, C) = xp_of(x), x.shape
    y, mean = xp.empty_like(x), xp.empty(N, accum(x.dtype))
    rstd = xp.empty_like(mean)
    grid = blocks(N, program.ROWS)
    program.launch("layer_norm_forward", x.dtype, grid, y, mean, rstd, x, weight, bias, eps, N, C)
    return y, mean, rstd


def layer_norm_backward(program, dy, x, weight, mean, rstd):
    xp, (N, C), A = xp_of(x), x.shape, accum(x.dtype)
    dx, dweight, dbias = xp.empty_like(x), xp.empty_like(weight), xp.empty_like(weight)
    grid = blocks(N, program.ROWS)
    program.launch("layer_norm_backward", x.dtype, grid, dx, dy, x, weight, mean, rstd, N, C)
    # Two stages, so that the order of the sums never depends on the order of the blocks.
    parts = blocks(N, program.PART_ROWS)
    partial = xp.empty((2, parts, C), A)
    columns = blocks(C, program.THREADS)
    program.launch(
        "layer_norm_partial_sums", x.dtype, (columns, parts), partial, dy, x, mean, rstd, N, C
    )
    program.launch("layer_norm_total", x.dtype, columns, dweight, dbias, partial, parts, C)
    return dx, dweight, dbias
