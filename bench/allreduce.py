"""Our all-reduces beside MPI's own, in place, and Gloo's through PyTorch; float32.

    mpirun -n 4 python bench/allreduce.py            > bench/results/allreduce-cpu-DATE-4.txt
    mpirun -n 4 python bench/allreduce.py --tune       keep what is the fastest here for training

All run by turns, so that a drift of the machine meets all; each turn is several calls after one
that is not timed, a time is that of the slowest rank, the figure the median of turns. "x MPI" and
"x Gloo" are the medians of their time over that of "auto" ("ring x MPI": of the ring), turn by
turn: above 1, ours is faster. Results are checked after the timing. Ranks beyond the cores share
them.
"""

import argparse
import os
import shlex
import socket
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parents[1]))  # `minillm` of this checkout, installed or not

from bench.machine import describe  # noqa: E402
from minillm.distributed import all_reduce, tuning, world  # noqa: E402
from minillm.distributed.allreduce import ALGORITHMS, choose  # noqa: E402

SIZES = [4, 1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000, 16_000_000, 100_000_000]
OURS = ["auto", *ALGORITHMS]


def gloo(comm):
    """PyTorch's all-reduce on its CPU backend, on these ranks; None without PyTorch."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        import torch
        from torch import distributed as dist
    except ImportError:
        return None
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = MPI.COMM_WORLD.bcast(probe.getsockname()[1])
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=comm.rank, world_size=comm.size)
    return lambda array: dist.all_reduce(torch.from_numpy(array))


def seconds(comm, reduce, array: np.ndarray, calls: int) -> float:
    """One call of several on this rank; the one before them brings the ranks and caches together.

    The barrier is ours, which gives way: a rank that spins in MPI's takes the core of one that is
    not done.
    """
    comm.barrier()
    reduce(array)
    start = time.perf_counter()
    for _ in range(calls):
        reduce(array)
    return (time.perf_counter() - start) / calls


def slowest(times) -> np.ndarray:
    """Of each number, the largest of all ranks."""
    most = np.array(times, np.float64)
    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, most, MPI.MAX)
    return most


def measure(comm, rivals: dict, nbytes: int, spend: float) -> dict[str, np.ndarray]:
    """Seconds of each rival's turns."""
    array = np.zeros(nbytes // 4, np.float32)
    warm = slowest([seconds(comm, reduce, array, 1) for reduce in rivals.values()])
    calls = max(1, min(20, int(4e-3 / warm.mean())))
    turns = max(9, min(80, int(spend / (warm.sum() * (calls + 1)))))
    times = np.empty((turns, len(rivals)))
    order, by_number = np.random.default_rng(0), list(rivals.values())
    for turn in times:  # in another order each, the same on all ranks: none is always after Gloo
        for i in order.permutation(len(rivals)):
            turn[i] = seconds(comm, by_number[i], array, calls)
    times = slowest(times)
    for name, reduce in rivals.items():
        array[:] = np.arange(array.size) % 1000 + comm.rank
        reduce(array)
        want = comm.size * (np.arange(array.size) % 1000) + comm.size * (comm.size - 1) / 2
        assert np.array_equal(array, want), f"wrong sum: {name}"
    return dict(zip(rivals, times.T))


def row(comm, nbytes: int, times: dict[str, np.ndarray], names) -> str:
    def ratio(rival: str, ours: str) -> str:
        if rival not in times or ours not in times:
            return " " * 8
        return f"{np.median(times[rival] / times[ours]):>7.2f}x"

    ratios = " ".join(ratio(f, o) for o in ("auto", "ring") for f in ("MPI", "Gloo"))
    figures = (f"{np.median(times[n]) * 1e3:>12.4f}" if n in times else " " * 12 for n in names)
    return f"{nbytes:>11,} {' '.join(figures)} {ratios}  {choose(comm, nbytes)}"


def header(comm, rivals: dict) -> str:
    facts = describe()
    mpi = MPI.Get_library_version().splitlines()[0]
    lines = [
        f"All-reduce, float32, {comm.layout}; {mpi}",
        f"command: mpirun -n {comm.size} python {shlex.join(sys.argv)}",
        f"{facts['date']}, commit {facts['commit']}, {facts['cpu']}, {facts['cores']} cores,"
        f" load {os.getloadavg()[0]:.1f}",
        f"{facts['system']}, {facts['versions']}",
        "medians in ms; ratios are medians of turns, the other's time over that of auto, or ring",
        "",
        f"{'bytes':>11} "
        + " ".join(f"{n:>12}" for n in rivals)
        + "    x MPI   x Gloo ring MPI ringGloo  auto is",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tune", action="store_true", help="keep what is the fastest; about 1 s")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each size, roughly")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes")
    args = parser.parse_args()
    comm = world()
    if comm.size == 1:
        raise SystemExit("start it on ranks: mpirun -n 4 python bench/allreduce.py")
    if args.tune:
        table = tuning.measure(comm)
        if comm.rank == 0:
            tuning.save(comm.layout, table)
            print(f"{comm.layout}:", *(f"up to {most:,.0f} bytes {name};" for most, name in table))
        return
    rivals = {name: lambda x, name=name: all_reduce(comm, x, algorithm=name) for name in OURS}
    rivals["MPI"] = lambda x: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, x)
    if (other := gloo(comm)) is not None:
        rivals["Gloo"] = other
    if comm.rank == 0:
        print(header(comm, rivals), flush=True)
    names, others = list(rivals), rivals.copy()
    for nbytes in args.sizes:
        times = measure(comm, others, nbytes, args.seconds)
        if comm.rank == 0:
            print(row(comm, nbytes, times, names), flush=True)
        best = min(np.median(t) for t in times.values())
        for name in ALGORITHMS:  # one of ours that has fallen far behind would take all the time
            if name in times and nbytes > 1_000_000 and np.median(times[name]) > 4 * best:
                del others[name]


if __name__ == "__main__":
    main()
