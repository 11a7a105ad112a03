"""All-reduce in few messages, for small arrays: recursive doubling, recursive halving.

Doubling: in round k = 1, 2, 4, ... < p, ranks r and r xor k exchange all they have and add it, so
that each then has the sum of 2k ranks. Nothing is faster for a few bytes: one message's time a
round, log2(p) rounds.

Halving: ranks r and r xor k each send the other's half of what they are still to sum, and add what
comes: after log2(p) rounds each has the sum of its 1/p. Then the rounds run backwards, each sending
what it has summed. As few bytes as a ring, in 2 log2(p) messages instead of 2 (p - 1)
(Rabenseifner 2004, "Optimization of collective reduction operations"; both compared in Thakur,
Rabenseifner & Gropp 2005, "Optimization of collective communication operations in MPICH").

    doubling    log2(p) * (latency + n / bandwidth)
    halving     2 log2(p) * latency + 2 (p - 1) / p * n / bandwidth

Where p is no power of two, the ranks beyond the last one hand their array to one of the others
first and are given the result at the end: two more messages of n.

All ranks end with the same bits, at every run: in halving each element is summed by one rank and
copied; in doubling both ranks of a pair add the lower rank's sum to the higher's, in this order.
"""

import numpy as np

from minillm.device import Array
from minillm.distributed import staging
from minillm.distributed.comm import Communicator, Exchange
from minillm.distributed.reduction import combine_arriving, cut
from minillm.distributed.staging import final, ready
from minillm.distributed.steps import Steps

# Up to these many bytes a message goes through buffers that stay: two copies more, but MPI has
# prepared all else. Larger arrays are doubled in pieces of that size.
KEPT_BYTES = 1 << 16
MOST_KEPT = 32  # sets of buffers, each for another length, dtype or tag

# An exchange, its lower rank's array, its higher's, and where their sum goes: on to the next one's
# buffer, or, at the end, None.
_Round = tuple[Exchange, np.ndarray, np.ndarray, np.ndarray | None]
Kept = tuple[np.ndarray, list[_Round]]  # where the first takes its array from; all of them


def doubling(comm: Communicator, array: Array, ufunc: np.ufunc, tag: int) -> Steps[None]:
    """All-reduce (n,) in place by recursive doubling."""
    if type(array) is not np.ndarray:
        yield from ready(array)
        host = staging.settled(array)
        yield from doubling(comm, host, ufunc, tag)
        if not isinstance(array, np.ndarray):  # GPU-aware MPI: such short messages go by the host
            array.set(host)
        return
    core = _power_of_two(comm.size)
    if core < comm.size:
        yield from _fold(comm, array, ufunc, tag)
    if comm.rank < core:
        for piece in [array] if array.nbytes <= KEPT_BYTES else cut(array, KEPT_BYTES):
            key = piece.shape, piece.dtype, tag
            kept = comm.kept.pop(key, None) or _rounds(comm, piece.size, piece.dtype, tag)
            first, rounds = kept
            first[...] = piece
            for exchange, low, high, onwards in rounds:
                yield exchange.start()
                ufunc(low, high, out=piece if onwards is None else onwards)
            comm.kept[key] = kept
            if len(comm.kept) > MOST_KEPT:
                _drop_oldest(comm)
    if core < comm.size:
        yield from _unfold(comm, array, tag)


def redouble(kept: Kept, array: np.ndarray, ufunc: np.ufunc) -> None:
    """The same at once, with what doubling has kept for this length and dtype; 2^k ranks."""
    first, rounds = kept
    first[...] = array
    for exchange, low, high, onwards in rounds:
        exchange.start().wait()
        ufunc(low, high, out=array if onwards is None else onwards)


def _rounds(comm: Communicator, n: int, dtype: np.dtype, tag: int) -> Kept:
    """New exchanges with ranks r xor 1, 2, 4, ...; and where the first takes its array from."""
    peers = [comm.rank ^ 1 << k for k in range(comm.size.bit_length() - 1)]
    exchanges = [comm.exchange(n * dtype.itemsize, peer, tag) for peer in peers]
    outs = [exchange.out.view(dtype) for exchange in exchanges]
    intos = [exchange.into.view(dtype) for exchange in exchanges]
    rounds = [
        (exchange, *((out, into) if comm.rank < peer else (into, out)), onwards)
        for exchange, peer, out, into, onwards in zip(
            exchanges, peers, outs, intos, [*outs[1:], None]
        )
    ]
    return outs[0], rounds


def _drop_oldest(comm: Communicator) -> None:
    """What doubling's steps used the longest ago makes room; `redouble` does not count."""
    _, rounds = comm.kept.pop(next(iter(comm.kept)))
    for exchange, *_ in rounds:
        exchange.free()


def halving(comm: Communicator, array: Array, ufunc: np.ufunc, tag: int) -> Steps[None]:
    """All-reduce (n,) in place by recursive halving, then doubling."""
    core = _power_of_two(comm.size)
    if core < comm.size:
        yield from _fold(comm, array, ufunc, tag)
    if comm.rank < core:
        yield from _halve(comm, array, ufunc, tag, core)
    if core < comm.size:
        yield from _unfold(comm, array, tag)


def _halve(comm: Communicator, array: Array, ufunc: np.ufunc, tag: int, core: int) -> Steps[None]:
    rounds, distance = [], 1
    start, stop = 0, array.size  # what this rank is still to sum
    while distance < core:
        peer, middle = comm.rank ^ distance, (start + stop) // 2
        theirs = slice(middle, stop)
        kept = start, middle
        if comm.rank & distance:
            theirs, kept = slice(start, middle), (middle, stop)
        rounds.append((peer, theirs, slice(*kept)))
        yield from combine_arriving(
            comm,
            [(piece, peer) for piece in cut(array[slice(*kept)])],
            ufunc,
            tag,
            sends=[(piece, peer) for piece in cut(array[theirs])],
        )
        start, stop = kept
        distance *= 2
    final(array[start:stop])
    for peer, theirs, ours in reversed(rounds):
        receive = comm.irecv(array[theirs], peer, tag)  # whole: pieces were slower from 16 MB on
        send = comm.isend(array[ours], peer, tag)
        yield receive
        final(array[theirs])
        yield send


def _power_of_two(size: int) -> int:
    """The largest that is not above `size`."""
    return 1 << size.bit_length() - 1


def _fold(comm: Communicator, array: Array, ufunc: np.ufunc, tag: int) -> Steps[None]:
    """Ranks from the power of two on have theirs added to that of a rank below it."""
    core = _power_of_two(comm.size)
    if comm.rank >= core:
        yield from ready(array)
        yield from [comm.isend(piece, comm.rank - core, tag) for piece in cut(array)]
    elif comm.rank + core < comm.size:
        parts = [(piece, comm.rank + core) for piece in cut(array)]
        yield from combine_arriving(comm, parts, ufunc, tag)


def _unfold(comm: Communicator, array: Array, tag: int) -> Steps[None]:
    """They are given the result."""
    core = _power_of_two(comm.size)
    if comm.rank >= core:
        yield comm.irecv(array, comm.rank - core, tag)
    elif comm.rank + core < comm.size:
        yield comm.isend(array, comm.rank + core, tag)
