"""What must hold of the answers of chapter 10, on threads as ranks: every send waits for its
receive, a deadlock is named, and so is an array that two messages use at once."""

import time
from collections.abc import Callable, Iterator
from math import inf, log2
from typing import Any

import numpy as np

from minillm.learn import Mistake, expect, same
from minillm.learn.ranks import on_ranks

RANKS = (3, 2, 4, 5, 1)


# --- 10.1 -----------------------------------------------------------------------------------------


def check_exchange(work):
    for p in (2, 3, 4, 5):
        for n in (1, 1000):
            case = f"{p} ranks, arrays of {n}"
            for rank, got in enumerate(on_ranks(case, p, pass_on, work, n)):
                left = (rank - 1) % p
                expect(
                    (got != -2).all(),
                    f"{case}: rank {left} changed `mine` after its exchange, and rank {rank} got"
                    " what it was changed to: the send was not done when exchange returned",
                )
                same(f"{case}: what rank {rank} received", got, np.full(n, left))


def pass_on(comm, work, n):
    comm.sendrecv = no_sendrecv
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    other = np.full(n, -7)
    decoy = comm.isend(other, right, 0)  # with another tag, to be received later
    time.sleep(0.003 * comm.rank)  # ranks seldom come at the same time
    mine, theirs = np.full(n, comm.rank), np.full(n, -1)
    work.exchange(comm, mine, right, theirs, left, 5)
    got = theirs.copy()
    mine[:] = -2  # it is ours again
    comm.recv(other.copy(), left, 0)
    decoy.wait()
    return got


def no_sendrecv(*args: Any) -> None:
    raise Mistake("exchange calls comm.sendrecv: build it from isend and irecv")


# --- 10.2 and 10.3 --------------------------------------------------------------------------------


def cases(p: int) -> Iterator[tuple[str, np.ndarray, np.ufunc]]:
    """What to call it, the arrays of all ranks, of whole numbers, and how they are combined."""
    for n in (12, 7, 101, 2):
        x = np.random.default_rng((p, n)).integers(1, 1000, (p, n))
        yield f"{p} ranks, n = {n}", x.astype(np.float64), np.add
    x = np.random.default_rng(p).integers(-1000, 1000, (p, 9)).astype(np.int32)
    yield f"{p} ranks, n = 9, ufunc=np.maximum", x, np.maximum


def part(n: int, p: int, i: int) -> slice:
    return slice(i % p * n // p, (i % p + 1) * n // p)


def sent(case: str, comm: Any, array: np.ndarray, all_but: int) -> None:
    """This rank must have sent each chunk but one."""
    wanted = array.nbytes - array[part(array.size, comm.size, all_but)].nbytes
    expect(
        comm.bytes_sent == wanted,
        f"{case}: rank {comm.rank} has sent {comm.bytes_sent} bytes, expected {wanted}",
    )


def tagged(case: str, fn: Callable, comm: Any, *args: Any) -> None:
    """`fn(comm, *args, tag=4)`, all of whose messages must go to the right, with that tag."""
    isend, right = comm._isend, (comm.rank + 1) % comm.size

    def noted(data, dest, tag):
        expect(tag == 4, f"{case}: called with tag=4, sends a message with tag {tag}")
        expect(dest == right, f"{case}: rank {comm.rank} sends to {dest}, expected {right}")
        return isend(data, dest, tag)

    comm._isend = noted
    fn(comm, *args, tag=4)


def check_reduce_scatter(work):
    for p in RANKS:
        for case, x, ufunc in cases(p):
            arrays = on_ranks(case, p, reduced, work, case, x, ufunc)
            for rank, array in enumerate(arrays):
                mine = part(array.size, p, rank)
                wanted = ufunc.reduce(x, 0)[mine]
                same(f"{case}: chunk {rank} on rank {rank}", array[mine], wanted)


def reduced(comm, work, case, x, ufunc):
    array = x[comm.rank].copy()
    tagged(case, work.reduce_scatter, comm, array, ufunc)
    sent(case, comm, array, comm.rank)
    return array


def check_all_gather(work):
    for p in RANKS:
        for case, x, _ in cases(p):
            for rank, array in enumerate(on_ranks(case, p, gathered, work, case, x[0])):
                same(f"{case}: the array of rank {rank}", array, x[0])


def gathered(comm, work, case, whole):
    array, mine = np.full_like(whole, -1), part(whole.size, comm.size, comm.rank)
    array[mine] = whole[mine]
    tagged(case, work.all_gather, comm, array)
    sent(case, comm, array, comm.rank + 1)
    return array


# --- 10.4 -----------------------------------------------------------------------------------------


def check_ring(work):
    for p in RANKS:
        for case, x, ufunc in cases(p):
            for k in range(1, max(1, min(3, x.shape[1] // p)) + 1):
                what = f"{case}, pieces of a chunk: {k}"
                for rank, array in enumerate(on_ranks(what, p, ringed, work, what, x, ufunc, k)):
                    same(f"{what}: the array of rank {rank}", array, ufunc.reduce(x, 0))
    check_two_at_once(work)


def ringed(comm, work, what, x, ufunc, k):
    array = x[comm.rank].copy()
    piece_bytes = -(-array.nbytes // (comm.size * k))
    steps = work.ring(comm, array, ufunc, 3, piece_bytes)
    drive(what, steps, comm, 2 * (comm.size - 1) * -(-array.nbytes // (comm.size * piece_bytes)))
    return array


class Guard:
    """A request that only the driver may wait for."""

    def __init__(self, request: Any):
        self.request, self.done = request, False

    def test(self) -> bool:
        self.done = self.done or self.request.test()
        return self.done

    def wait(self) -> None:
        raise Mistake("ring waits for a request itself: yield it, and let the caller wait")


def drive(case: str, steps: Any, comm: Any, messages: int) -> None:
    """Run a generator of requests to its end, and watch it."""
    isend, irecv, rank = comm.isend, comm.irecv, comm.rank
    sends: list[Guard] = []
    receives: list[Guard] = []

    def noted(call: Callable, into: list[Guard]) -> Callable:
        def post(*args: Any) -> Guard:
            into.append(Guard(call(*args)))
            return into[-1]

        return post

    comm.isend, comm.irecv = noted(isend, sends), noted(irecv, receives)
    waited = 0
    for guard in steps:
        expect(isinstance(guard, Guard), f"{case}: ring yields {guard!r}, which is no request")
        if guard in receives and not guard.done:
            waited += 1
            expect(
                len(receives) >= min(waited + 1, messages),
                f"{case}: rank {rank} waits for receive {waited} before it has posted the next",
            )
        guard.request.wait()
        guard.done = True
    expect(
        len(sends) == messages,
        f"{case}: rank {rank} sends {len(sends)} messages, expected {messages}",
    )
    early = sum(not guard.done for guard in sends + receives)
    expect(
        not early,
        f"{case}: on rank {rank} ring ends before {early} of its messages were waited for",
    )


def check_two_at_once(work):
    """Two rings at once do not mix; and all ranks have the same bits."""
    x = np.random.default_rng(0).standard_normal((2, 4, 1000)).astype(np.float32)
    case = "two rings at once, tags 0 and 1, 4 ranks"
    first, *others = on_ranks(case, 4, two_at_once, work, x)
    for i in range(2):
        same(f"{case}: the sum of tag {i}", first[i], x[i].astype(np.float64).sum(0), 1e-5, 1e-5)
        for rank, arrays in enumerate(others, 1):
            same(f"rank {rank}'s sum, compared with rank 0's", arrays[i], first[i], 0, 0)


def two_at_once(comm, work, x):
    from minillm.distributed.steps import Progress

    arrays, progress = [x[i, comm.rank].copy() for i in range(2)], Progress()
    for tag, array in enumerate(arrays):
        progress.start(work.ring(comm, array, np.add, tag, 400))
    progress.wait()
    return arrays


# --- 10.5 -----------------------------------------------------------------------------------------


def check_costs(work):
    alpha, beta = 3e-6, 2e-10
    for p in (2, 4, 5, 6, 64, 1000):
        for n in (4, 10_000, 10**9):
            whole, rounds = alpha + beta * n, (p - 1).bit_length()
            wanted = {
                "root": 2 * (p - 1) * whole,
                "tree": 2 * rounds * whole,
                "doubling": rounds * whole if p & p - 1 == 0 else inf,
                "ring": 2 * (p - 1) * (alpha + beta * n / p),
            }
            got = work.costs(p, n, alpha, beta)
            expect(isinstance(got, dict), f"costs returns {type(got).__name__}, expected a dict")
            expect(set(got) == set(wanted), f"costs has {sorted(got)}, expected {sorted(wanted)}")
            for name, seconds in wanted.items():
                same(f"costs({p}, {n}, {alpha}, {beta})[{name!r}]", got[name], seconds, atol=0)
    for p in (4, 8, 64, 1024):
        wanted = alpha / beta * (2 * (p - 1) - log2(p)) / (log2(p) - 2 * (p - 1) / p)
        same(f"crossover({p}, {alpha}, {beta})", work.crossover(p, alpha, beta), wanted)
    same(f"crossover(2, {alpha}, {beta})", work.crossover(2, alpha, beta), inf)
    return f"with these, a ring of 4 wins from {work.crossover(4, alpha, beta):,.0f} bytes on"
