"""Every collective on real ranks: sums, bits, dtypes and sizes. Prints "ok" once on success."""

import ml_dtypes
import numpy as np

from minillm.distributed import (
    all_gather,
    all_reduce,
    broadcast,
    chunk,
    global_count,
    on_root,
    reduce_scatter,
    world,
)

comm = world()
rank, size = comm.rank, comm.size


def same_everywhere(array):
    """Whether all ranks have the bits of rank 0."""
    theirs = array.copy()
    broadcast(comm, theirs)
    return global_count(comm, theirs.tobytes() == array.tobytes()) == size


for dtype in (np.float64, np.float32, ml_dtypes.bfloat16, np.int64):
    for n in (0, 1, size - 1, size + 1, 1000, 1_500_001):  # the last one waits for its receives
        each = [(np.arange(n) * (r + 1) % 16).astype(dtype) for r in range(size)]
        want = sum(x.astype(np.float64) for x in each)  # small integers: exact in every dtype
        array = each[rank].copy()
        all_reduce(comm, array)
        assert np.array_equal(array.astype(np.float64), want), (dtype, n)
        halves = each[rank].copy()
        reduce_scatter(comm, halves)
        assert np.array_equal(chunk(comm, halves), chunk(comm, array))
        all_gather(comm, halves)
        assert np.array_equal(halves, array)

noise = np.random.default_rng(rank).standard_normal(1_500_001)
first = noise.copy()
all_reduce(comm, first)
assert same_everywhere(first)
for _ in range(3):
    again = noise.copy()
    all_reduce(comm, again)
    assert again.tobytes() == first.tobytes()

for root in range(size):
    array = np.full(300_000, rank)
    broadcast(comm, array, root=root)
    assert (array == root).all()
assert on_root(comm, lambda: {"rank": rank}) == {"rank": 0}
assert global_count(comm, 2**60 + rank) == size * 2**60 + size * (size - 1) // 2
comm.barrier()
if rank == 0:
    print("ok")
