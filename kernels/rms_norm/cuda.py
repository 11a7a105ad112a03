"""RMS normalisation in CUDA C++: what the steps of the ladder, the .cu files here, are given."""

from minillm.device import xp_of
from minillm.kernels.runtime.cuda import accum, blocks
from minillm.kernels.runtime.rows import row_block


def rms_norm_forward(program, x, weight, eps):
    xp, (N, C) = xp_of(x), x.shape
    x = xp.ascontiguousarray(x)
    y, rstd = xp.empty_like(x), xp.empty(N, accum(x.dtype))
    block = row_block(program, C * x.itemsize)
    args = (y, rstd, x, weight, eps, N, C)
    program.launch("rms_norm_forward", x.dtype, blocks(N, block[1]), *args, block=block)
    return y, rstd


def add_rms_norm_forward(program, x, residual, weight, eps):
    xp, (N, C) = xp_of(x), x.shape
    x, residual = xp.ascontiguousarray(x), xp.ascontiguousarray(residual)
    y, total, rstd = xp.empty_like(x), xp.empty_like(x), xp.empty(N, accum(x.dtype))
    block = row_block(program, C * x.itemsize)
    args = (y, total, rstd, x, residual, weight, eps, N, C)
    program.launch("add_rms_norm_forward", x.dtype, blocks(N, block[1]), *args, block=block)
    return y, total, rstd


def rms_norm_backward(program, dy, x, weight, rstd):
    return _backward(program, "rms_norm_backward", (dy, x), weight, rstd)


def add_rms_norm_backward(program, dy, dtotal, total, weight, rstd):
    return _backward(program, "add_rms_norm_backward", (dy, dtotal, total), weight, rstd)


def _backward(program, kernel, inputs, weight, rstd):
    """dx and dweight; inputs, each (N, C), are what `kernel` reads between partial and weight."""
    inputs = [xp_of(a).ascontiguousarray(a) for a in inputs]
    dy, xp, (N, C) = inputs[0], xp_of(inputs[0]), inputs[0].shape
    dx, dweight = xp.empty_like(dy), xp.empty_like(weight)
    lanes, rows = row_block(program, C * dy.itemsize)
    parts = min(blocks(N, rows), program.PARTS)
    partial = xp.empty((parts, C), accum(dy.dtype))
    args = (dx, partial, *inputs, weight, rstd, N, C)
    program.launch(kernel, dy.dtype, parts, *args, block=(lanes, rows))
    # A second stage: sums by atomics would depend on the order in which blocks end.
    grid, block = blocks(C, program.COLUMNS), (program.COLUMNS, program.SLICES)
    program.launch("rms_norm_total", dy.dtype, grid, dweight, partial, parts, C, block=block)
    return dx, dweight
