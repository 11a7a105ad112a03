"""Our ring all-reduce beside MPI's own, in place, float32.

    mpirun -n 4 python bench/allreduce.py

Both run by turns, so that a drift of the machine meets both; a time is that of the slowest rank,
the figure its median. "GB/s" is what every link carries, 2 (p - 1) / p * bytes / time, by which
numbers of ranks compare. Results are checked after the timing. Ranks beyond the cores share them.
"""

import time
from statistics import median

import numpy as np
from mpi4py import MPI

from minillm.distributed import all_reduce, world

SIZES = [1_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000, 16_000_000, 100_000_000]  # bytes
SECONDS = 2.0  # to spend on each size, roughly


def seconds(reduce, array: np.ndarray) -> float:
    """One call, until the slowest rank is done."""
    MPI.COMM_WORLD.Barrier()
    start = time.perf_counter()
    reduce(array)
    return MPI.COMM_WORLD.allreduce(time.perf_counter() - start, MPI.MAX)


def measure(comm, nbytes: int) -> tuple[float, float]:
    """Median seconds of the ring and of MPI."""
    array = np.ones(nbytes // 4, np.float32)
    rivals = (
        lambda x: all_reduce(comm, x),
        lambda x: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, x),
    )
    warm = sum(seconds(reduce, array) for reduce in rivals for _ in range(2))
    repeats = max(5, min(200, int(2 * SECONDS / warm)))
    times = [[seconds(reduce, array) for reduce in rivals] for _ in range(repeats)]
    for reduce in rivals:
        array[:] = np.arange(array.size) % 1000 + comm.rank
        reduce(array)
        want = comm.size * (np.arange(array.size) % 1000) + comm.size * (comm.size - 1) / 2
        assert np.array_equal(array, want), "wrong sum"
    ring, mpi = map(median, zip(*times))
    return ring, mpi


def main() -> None:
    comm = world()
    if comm.size == 1:
        raise SystemExit("start it on ranks: mpirun -n 4 python bench/allreduce.py")
    if comm.rank == 0:
        print(f"{comm.size} ranks, {MPI.Get_library_version().splitlines()[0]}")
        print(f"{'bytes':>12} {'ring ms':>10} {'MPI ms':>10} {'MPI/ring':>9} {'GB/s':>6}")
    for nbytes in SIZES:
        ring, mpi = measure(comm, nbytes)
        bandwidth = 2 * (comm.size - 1) / comm.size * nbytes / ring / 1e9
        if comm.rank == 0:
            print(
                f"{nbytes:>12,} {ring * 1e3:>10.3f} {mpi * 1e3:>10.3f} {mpi / ring:>8.2f}x"
                f" {bandwidth:>6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
