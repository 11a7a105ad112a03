"""What messages cost on this machine, what a ring should then cost, and what it does cost.

    mpirun -n 2 python tutorials/ch10_ring/measure.py [--file learn/ch10/ring.py] [--sizes 1000000]

For an array of n bytes on p ranks, of messages of b = n / p bytes:

    ping     one message from rank 0 to rank 1, all else silent
    reduce   a step of the reduce-scatter: every rank sends to the right, receives from the left,
             and adds what has come to what it sends next
    gather   a step of the all-gather: the same, but it passes on what has come
    add      the addition alone

"model" is 2 (p - 1) (alpha + beta b) + (p - 1) gamma b, with alpha and beta fitted to all pings by
least squares of relative errors, and gamma the fastest add, a byte. "steps" is p - 1 times reduce
and gather of that very size.

All is timed by turns, in another order each. A time is that of the slowest rank; shown is the 20th
percentile of turns, a quiet moment of a machine that others use, too.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np

from minillm.distributed import all_reduce, world

SIZES = [4_000, 64_000, 1_000_000, 16_000_000]


def ping(comm, data):
    """From rank 0 to rank 1 and back: two messages."""
    if comm.rank == 0:
        comm.send(data, 1)
        comm.recv(data, 1)
    elif comm.rank == 1:
        comm.recv(data, 0)
        comm.send(data, 0)


def reduce_step(comm, mine, theirs):
    """Every rank sends to the right and receives from the left, one message each, and adds."""
    comm.sendrecv(mine, (comm.rank + 1) % comm.size, theirs, (comm.rank - 1) % comm.size)
    np.add(mine, theirs, out=mine)


def gather_step(comm, pair):
    """The same without adding; what has come is sent next."""
    comm.sendrecv(pair[0], (comm.rank + 1) % comm.size, pair[1], (comm.rank - 1) % comm.size)
    pair.reverse()


def seconds(comm, calls, turns):
    """Of each call, by name; `calls` has (function, bytes that it moves) by name."""
    times = np.empty((turns, len(calls)))
    listed, order = list(calls.values()), np.random.default_rng(0)
    for turn in times:
        for i in order.permutation(len(calls)):  # the same on all ranks
            call, nbytes = listed[i]
            rounds = max(3, min(10, 4_000_000 // nbytes))
            comm.barrier()
            call()  # brings the ranks and the caches together
            began = time.perf_counter()
            for _ in range(rounds):
                call()
            turn[i] = (time.perf_counter() - began) / rounds
    all_reduce(comm, times.reshape(-1), "max")
    return dict(zip(calls, np.quantile(times, 0.2, axis=0)))


def fit(sizes, seconds):
    """alpha and beta of alpha + beta b nearest to the seconds, in relative error."""
    sizes, seconds = np.array(sizes, float), np.array(seconds)
    a = np.stack([1 / seconds, sizes / seconds], 1)  # of a @ (alpha, beta) = 1
    return np.linalg.lstsq(a, np.ones(len(sizes)), rcond=None)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--file", default=str(Path(__file__).with_name("ring.py")))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes")
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    comm = world()
    p = comm.size
    if p == 1:
        raise SystemExit("start it on ranks: mpirun -n 2 python tutorials/ch10_ring/measure.py")
    spec = importlib.util.spec_from_file_location("yours", args.file)
    yours = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(yours)
    sums = {
        "ring": lambda x: yours.all_reduce(comm, x),
        "in pieces": lambda x: yours.run(yours.ring(comm, x)),
        "minillm": lambda x: all_reduce(comm, x),
        "MPI": lambda x: comm.mpi_all_reduce(x, np.add),
    }
    calls = {}
    for n in args.sizes:
        b = n // p // 4 * 4
        mine, theirs = np.zeros(b // 4, np.float32), np.zeros(b // 4, np.float32)
        calls["ping", n] = (lambda m=mine: ping(comm, m)), n
        calls["reduce", n] = (lambda m=mine, t=theirs: reduce_step(comm, m, t)), n
        calls["gather", n] = (lambda pair=[mine, theirs]: gather_step(comm, pair)), n
        calls["add", n] = (lambda m=mine, t=theirs: np.add(m, t, out=m)), n
        x = np.zeros(n // 4, np.float32)
        for name, reduce in sums.items():
            x[:] = comm.rank
            reduce(x)
            assert (x == p * (p - 1) / 2).all(), f"{name}: a wrong sum"
            x[:] = 0
            calls[name, n] = (lambda x=x, reduce=reduce: reduce(x)), n
    took = seconds(comm, calls, args.turns)
    if comm.rank == 0:
        report(p, took, args.sizes, list(sums))


def report(p, took, sizes, names):
    """Print the messages, the model, and a row for each size."""
    messages = [n // p // 4 * 4 for n in sizes]
    pings = [took["ping", n] / 2 for n in sizes]
    names_of_messages = "ping", "reduce", "gather", "add"
    head = "".join(f"{name + ' us':>13}   GB/s" for name in names_of_messages)
    print(f"{p} ranks\n{'bytes':>10}{head}")
    for b, n, one in zip(messages, sizes, pings):
        times = [one, *(took[name, n] for name in names_of_messages[1:])]
        print(f"{b:>10,}" + "".join(f"{t * 1e6:>13.1f}{b / t / 1e9:>7.2f}" for t in times))
    alpha, beta = fit(messages, pings)
    gamma = min(took["add", n] / b for b, n in zip(messages, sizes))
    print(
        f"alpha {alpha * 1e6:.1f} us, 1 / beta {1e-9 / beta:.2f} GB/s,"
        f" 1 / gamma {1e-9 / gamma:.2f} GB/s\n\n"
        f"all-reduce, ms        predicted             measured\n{'bytes':>10}"
        + "".join(f"{name:>11}" for name in ["model", "steps", *names])
    )
    for b, n in zip(messages, sizes):
        model = 2 * (p - 1) * (alpha + beta * b) + (p - 1) * gamma * b
        steps = (p - 1) * (took["reduce", n] + took["gather", n])
        times = [model, steps, *(took[name, n] for name in names)]
        print(f"{n:>10,}" + "".join(f"{t * 1e3:>11.3f}" for t in times))


if __name__ == "__main__":
    main()
