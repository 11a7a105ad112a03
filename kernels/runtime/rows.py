"""How the threads of a GPU block are shared out among the rows of a matrix.

In: a Program's constants and a row's bytes. Out: the block (lanes, rows) for Program.launch: in the
kernel, threadIdx.x counts the threads of one row, threadIdx.y the rows of one block.
"""

from minillm.kernels.runtime.cuda import Program


def row_block(program: Program, row_bytes: int) -> tuple[int, int]:
    """Threads a row and rows a block, both powers of two.

    Between program.LEAST_LANES and MOST_LANES threads a row, so many that none has more than
    program.BYTES of it; program.THREADS a block, or one row if that takes more.
    """
    lanes = program.LEAST_LANES
    while lanes < program.MOST_LANES and lanes * program.BYTES < row_bytes:
        lanes *= 2
    return lanes, max(1, program.THREADS // lanes)
