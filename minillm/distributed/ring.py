"""Reduce-scatter, all-gather and all-reduce around a ring: the least bytes, for large arrays.

The array is cut into p chunks, one a rank. Every rank sends to its right and receives from its
left, p - 1 steps to sum and p - 1 steps to spread:

    step s < p - 1    send chunk r - 1 - s, receive chunk r - 2 - s and add it to one's own
    step s >= p - 1   send chunk r - 1 - s, receive chunk r - 2 - s in place of one's own

(all modulo p). After the first p - 1 steps rank r holds the sum of chunk r; each further step
passes finished chunks on. A chunk is summed by one rank after another, in a fixed order, and then
copied: all ranks end with the same bits, at every run.

Cost. Each step moves n / p elements over every link at once, so an all-reduce takes

    2 (p - 1) / p * n / bandwidth + 2 (p - 1) * latency

No algorithm moves less: p - 1 parts in p of the array must leave every rank twice (Patarasuk & Yuan
2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations"; pieces and costs of
other algorithms in Thakur, Rabenseifner & Gropp 2005, "Optimization of collective communication
operations in MPICH").

Chunks go in pieces: while one is being added, the next is arriving, and each is passed on as soon
as it is summed, across the steps. Sums are made in the array itself; the only other memory is for
the `DEPTH` pieces that are arriving, of at most `PIECE_BYTES` and at most 1/p of the array each.
For an array on a GPU host memory takes its place: a piece leaves as soon as its copy has come, and
goes back to the GPU as soon as it is final (staging.py).
"""

from collections import deque

import numpy as np

from minillm.device import Array, xp_of
from minillm.distributed import reduction
from minillm.distributed.comm import Communicator, Request
from minillm.distributed.reduction import combine, finish, on_host, ufunc_of
from minillm.distributed.spans import span
from minillm.distributed.staging import final, ready
from minillm.distributed.steps import Collective, Steps


def chunk(comm: Communicator, array: Array) -> Array:
    """The part of `array` (n,) that this rank sums: a view of n / size elements, give or take 1."""
    return array[_mine(comm, array)]


def chunks(comm: Communicator, array: Array) -> list[Array]:
    """The parts of `array` (n,) that all ranks sum, by rank."""
    return [array[span(array.size, r, comm.size)] for r in range(comm.size)]


def _mine(comm: Communicator, array: Array) -> slice:
    return span(array.size, comm.rank, comm.size)


@Collective
def reduce_scatter(comm: Communicator, array: Array, op: str = "sum", tag: int = 0) -> Steps[Array]:
    """Reduce `array` (n,) over ranks; returns `chunk(comm, array)`, which then holds its sum.

    The other chunks are left undefined.

    Args:
        op: "sum", "mean", "max" or "min".
    """
    ufunc = ufunc_of(op, array)
    last, mine = comm.size - 1, _mine(comm, array)
    yield from on_host(
        comm, array, lambda host: _ring(comm, host, ufunc, 0, last, tag), writes=mine
    )
    finish(chunk(comm, array), op, comm.size)
    return chunk(comm, array)


@Collective
def all_gather(comm: Communicator, array: Array, tag: int = 0) -> Steps[None]:
    """Give every rank the `chunk(comm, array)` of every other, in place."""
    first, last = comm.size - 1, 2 * (comm.size - 1)
    mine = _mine(comm, array)
    yield from on_host(
        comm, array, lambda host: _ring(comm, host, np.add, first, last, tag), reads=mine
    )


def ring(comm: Communicator, array: Array, ufunc: np.ufunc, tag: int) -> Steps[None]:
    """All-reduce (n,) in place: all steps of the ring."""
    yield from _ring(comm, array, ufunc, 0, 2 * (comm.size - 1), tag)


def _ring(
    comm: Communicator, array: Array, ufunc: np.ufunc, first: int, last: int, tag: int
) -> Steps[None]:
    """Steps `first` to `last`. Message m is piece m % pieces of step m // pieces."""
    p, n = comm.size, array.size
    if p == 1 or n == 0:
        return
    left, right = (comm.rank - 1) % p, (comm.rank + 1) % p
    pieces = -(-array.nbytes // (p * reduction.PIECE_BYTES))

    def part(message: int, lag: int) -> Array:
        """The part of `array` that goes as `message` to the right (lag 1) or from the left (2)."""
        step, piece = divmod(message, pieces)
        i = (comm.rank - lag - step) % p * pieces + piece
        return array[span(n, i, p * pieces)]

    summed = (p - 1) * pieces  # messages below this are added
    depth = min(reduction.DEPTH, summed)
    arriving = [xp_of(array).empty(-(-n // (p * pieces)), array.dtype) for _ in range(depth)]
    sends: deque[tuple[int, Request]] = deque()
    receives: deque[tuple[Array, Request]] = deque()
    posted, end = first * pieces, last * pieces
    for message in range(posted, end):
        while posted < min(message + depth, end):
            into = part(posted, 2)
            if posted < summed:
                into = arriving[posted % depth][: into.size]
            else:
                yield from ready(into)
            while sends and sends[0][0] <= posted - summed:  # it left from where this one arrives
                yield sends.popleft()[1]
            receives.append((into, comm.irecv(into, left, tag)))
            posted += 1
        if message < (first + 1) * pieces:  # not yet received, nor summed, here
            yield from ready(part(message, 1))
        sends.append((message, comm.isend(part(message, 1), right, tag)))
        if len(sends) > depth:
            yield sends.popleft()[1]
        into, request = receives.popleft()
        yield request
        if message < summed:
            yield from ready(part(message, 2))
            combine(ufunc, part(message, 2), into)
        if message >= summed - pieces:
            final(part(message, 2))
    for _, request in sends:
        yield request
