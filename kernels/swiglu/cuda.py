"""The SiLU-gated linear unit in CUDA C++: what the steps of the ladder, the .cu files here, are
given."""

from minillm.device import xp_of
from minillm.kernels.runtime.flat import flat_blocks


def swiglu_forward(program, gate, up):
    y = xp_of(gate).empty_like(gate)
    grid = flat_blocks(gate, program.THREADS, program.PACKS)
    program.launch("swiglu_forward", gate.dtype, grid, y, gate, up, gate.size)
    return y


def swiglu_backward(program, dy, gate, up):
    xp = xp_of(gate)
    dgate, dup = xp.empty_like(gate), xp.empty_like(up)
    grid = flat_blocks(gate, program.THREADS, program.PACKS)
    program.launch("swiglu_backward", gate.dtype, grid, dgate, dup, dy, gate, up, gate.size)
    return dgate, dup
