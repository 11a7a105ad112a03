"""One of two ranks raises:  mpirun -n 2 python tutorials/ch14_failures/raises.py plain|minillm"""

import sys

import numpy as np


def plain():
    """MPI as it comes: rank 0 waits for ever for a message of a rank that has ended."""
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 1:
        raise ZeroDivisionError("a bug")
    MPI.COMM_WORLD.Recv(np.empty(1), source=1)


def minillm():
    """The same through minillm.distributed, whose hooks end all ranks."""
    from minillm.distributed import world

    comm = world()
    if comm.rank == 1:
        raise ZeroDivisionError("a bug")
    comm.recv(np.empty(1), 1)


if __name__ == "__main__":
    {"plain": plain, "minillm": minillm}[sys.argv[1]]()
