"""Every all-reduce, operation and dtype on real ranks, groups of them, and the measured table.

Prints "ok" once on success.
"""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

from minillm import env
from minillm.distributed import all_reduce, broadcast, global_count, hosts, reduce, split, tuning
from minillm.distributed import world as start
from minillm.distributed.allreduce import ALGORITHMS, choose
from minillm.errors import UserError

env.CACHE = Path(sys.argv[1])
comm = start()
rank, size = comm.rank, comm.size


def same_everywhere(array):
    """Whether all ranks have the bits of rank 0."""
    theirs = array.copy()
    broadcast(comm, theirs)
    return global_count(comm, theirs.tobytes() == array.tobytes()) == size


assert hosts(comm) == [list(range(size))]
ufuncs = {"sum": np.add, "max": np.maximum, "min": np.minimum}
for algorithm in [*ALGORITHMS, "auto", "mpi"]:
    for dtype in (np.float64, np.float32, ml_dtypes.bfloat16, np.int64):
        for n in (0, 1, size - 1, size + 1, 1000, 300_001 if dtype is np.float32 else 9_001):
            each = [(np.arange(n) * (r + 1) % 16).astype(dtype) for r in range(size)]
            for op, ufunc in ufuncs.items():
                array = each[rank].copy()
                try:
                    all_reduce(comm, array, op, algorithm)
                except UserError as error:
                    assert algorithm == "mpi" and "bfloat16" in str(error)
                    continue
                want = ufunc.reduce([x.astype(np.float64) for x in each])  # exact in every dtype
                assert np.array_equal(array.astype(np.float64), want), (algorithm, dtype, n, op)
    noise = np.random.default_rng(rank).standard_normal(100_003)
    first = noise.copy()
    all_reduce(comm, first, "mean", algorithm)
    assert same_everywhere(first) or algorithm == "mpi"
    for _ in range(3):
        again = noise.copy()
        all_reduce(comm, again, "mean", algorithm)
        assert again.tobytes() == first.tobytes() or algorithm == "mpi"

for root in range(size):
    array = np.full(300_000, rank)
    reduce(comm, array, root=root)
    assert rank != root or (array == size * (size - 1) // 2).all()

pair = split(comm, rank // 2, key=-rank)
for n in (1, 100_000):
    array = np.full(n, float(rank))
    all_reduce(pair, array)
    all_reduce(comm, np.ones(n))
    assert (array == sum(pair.ranks)).all()
pair.barrier()

before = comm.bytes_sent
all_reduce(comm, np.ones(1000), algorithm="doubling")
if size in (2, 4):
    assert comm.bytes_sent - before == 8000 * (size.bit_length() - 1)

tuning._REPEATS = 3
table = tuning.measure(comm)
codes = np.array([[most, list(ALGORITHMS).index(name)] for most, name in table]).reshape(-1)
assert same_everywhere(codes) and choose(comm, 1 << 40) == table[-1][1]
if rank == 0:
    tuning.save(comm.layout, table)
    assert tuning.load()[comm.layout] == table
    assert json.loads((env.CACHE / "allreduce.json").read_text())
comm.barrier()
if rank == 0:
    print("ok")
