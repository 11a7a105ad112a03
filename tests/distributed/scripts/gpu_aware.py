"""MINILLM_GPU_AWARE_MPI=1 on real ranks, with a stand-in GPU, whose memory any MPI can read.

gpu_aware.py          asks MPI, which has no CUDA support: refused
gpu_aware.py proven   MPI is said to have it; prints "ok"
gpu_aware.py wrong    the same, with an MPI that mixes up a byte of a long message: refused
"""

import sys

import numpy as np

from minillm.distributed import all_reduce, broadcast, mpi, reduce, world
from minillm.distributed.allreduce import ALGORITHMS
from tests import fake_cupy

how = sys.argv[1] if len(sys.argv) > 1 else ""
fake_cupy.install(gpus=2)
import cupy  # noqa: E402

if how:
    mpi.says_gpu_aware = lambda module: True
if how == "wrong":
    sent = mpi.MPICommunicator._isend

    def isend(self, data, dest, tag):
        if self.rank == 1 and data.size > 1 << 20:
            data = data.copy()
            data[data.size // 2 : data.size // 2 + 1] += 1
        return sent(self, data, dest, tag)

    mpi.MPICommunicator._isend = isend
comm = world()
assert comm.gpu_aware
for algorithm in [*ALGORITHMS, "mpi"]:
    for n in (1, 1000, 700_001):
        each = [(np.arange(n) % 97 + r).astype(np.float32) for r in range(comm.size)]
        array = cupy.asarray(each[comm.rank])
        all_reduce(comm, array, algorithm=algorithm)
        assert (array.get() == sum(each)).all(), (algorithm, n)
array = cupy.asarray(each[comm.rank])
reduce(comm, array, "max", root=1)
broadcast(comm, array, root=1)
assert (array.get() == each[-1]).all()
if comm.rank == 0:
    print("ok")
