"""How many blocks share the elements of arrays, for kernels that see arrays as elements in a row
(include/flat.cuh)."""

from minillm.device import Array
from minillm.kernels.runtime.cuda import blocks

# With fewer, some of the 132 multiprocessors of an H100 or H200 would have less to do than others.
ENOUGH_BLOCKS = 1024


def flat_blocks(x: Array, threads: int, packs: int) -> int:
    """How many blocks of `threads` threads are to work on the elements of arrays like `x`.

    Each thread takes `packs` packs of 16 bytes (0: one element), or, where that makes too few
    blocks to fill a GPU, down to one.
    """
    pack = 16 // x.itemsize
    most = blocks(x.size, threads * max(1, packs * pack))
    return max(most, min(blocks(x.size, threads * pack), ENOUGH_BLOCKS))
