"""Softmax in CUDA C++: what the steps of the ladder, the .cu files here, are given."""

from typing import NamedTuple

from minillm.device import Array, xp_of
from minillm.kernels.runtime.cuda import Program, blocks

_PACK = 16  # bytes
_HOPPER = 227 << 10  # bytes of shared memory that a block may have; the emulator is one
_STATIC = 2 << 10  # of them for what the kernels declare themselves


class Geometry(NamedTuple):
    """How rows are shared out: `blocks`, each of (threads a row, rows) threads.

    Each thread has `slots` places for packs of every array that is kept, in `shared` bytes.
    """

    blocks: int
    block: tuple[int, int]
    slots: int
    shared: int


def geometry(program: Program, x: Array, kept: int = 1) -> Geometry:
    """The Geometry for the rows of x (N, C), of which the program keeps `kept` arrays on the chip.

    A row gets a thread for each THREAD_BYTES that are kept of it, rounded up to a power of two
    between LEAST_ROW_THREADS and MOST_ROW_THREADS; a block as many rows as make THREADS, at least
    one. As much of them is kept as KEPT_BYTES and the GPU allow.
    """
    (N, C), cuda = x.shape, getattr(xp_of(x), "cuda", None)
    row_bytes = max(1, C * x.itemsize)
    wanted = 1 << (blocks(kept * row_bytes, program.THREAD_BYTES) - 1).bit_length()
    threads = min(max(wanted, program.LEAST_ROW_THREADS), program.MOST_ROW_THREADS)
    rows = max(1, program.THREADS // threads)
    limit = cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"] if cuda else _HOPPER
    slot = kept * threads * rows * _PACK
    slots = min(
        blocks(row_bytes, threads * _PACK), min(program.KEPT_BYTES, limit - _STATIC) // slot
    )
    return Geometry(blocks(N, rows), (threads, rows), slots, slots * slot)


def softmax_forward(program, x):
    (N, C), y, at = x.shape, xp_of(x).empty_like(x), geometry(program, x)
    args = y, x, N, C, at.slots
    program.launch("softmax_forward", x.dtype, at.blocks, *args, block=at.block, shared=at.shared)
    return y


def softmax_backward(program, dy, y):
    (N, C), dx, at = y.shape, xp_of(y).empty_like(y), geometry(program, y, kept=2)
    args = dx, dy, y, N, C, at.slots
    program.launch("softmax_backward", y.dtype, at.blocks, *args, block=at.block, shared=at.shared)
    return dx
