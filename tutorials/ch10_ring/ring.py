"""A ring all-reduce on sends and receives: your file for chapter 10.

Every rank has an array (n,) of the same length, flat and contiguous, and ends with their sum. The
array is cut into one chunk a rank; `comm` is a rank of minillm.distributed: comm.rank, comm.size,

    comm.isend(array, dest, tag)       start sending: a request
    comm.irecv(array, source, tag)     start receiving into it: a request
    request.wait()                     return once it is done; until then, leave the array alone
"""

from math import ceil, inf, log2

import numpy as np


def chunk(n, p, i):
    """Where chunk `i` modulo p of an array of n elements is: a slice. Lengths differ by 1 at most,
    and are 0 for some chunks where n < p."""
    i %= p
    return slice(i * n // p, (i + 1) * n // p)


def exchange(comm, mine, dest, theirs, source, tag=0):
    """Send `mine` to rank `dest` while receiving `theirs` from rank `source`.

    All ranks call it at once, around a ring. On return `theirs` has arrived, and `mine` may be
    changed. A send may wait until its receive has been posted, so post both before waiting.
    """
    # hole 1: post the receive and the send, then wait for both
    requests = [comm.irecv(theirs, source, tag), comm.isend(mine, dest, tag)]
    for request in requests:
        request.wait()
    # end of hole


def reduce_scatter(comm, array, ufunc=np.add, tag=0):
    """Leave the sum of chunk r over all ranks in chunk r of rank r's `array`; in place.

    Step s = 0 ... p - 2: send chunk r - 1 - s to the right, receive chunk r - 2 - s from the left,
    make one's own chunk r - 2 - s `ufunc` of both. What is left in the other chunks does not
    matter. A rank sends p - 1 messages, each one chunk, empty or not.
    """
    p, r, n = comm.size, comm.rank, array.size
    left, right = (r - 1) % p, (r + 1) % p
    # hole 2: p - 1 times: exchange, then combine (ufunc(own, arrived, out=own))
    for s in range(p - 1):
        own = array[chunk(n, p, r - 2 - s)]
        arrived = np.empty_like(own)
        exchange(comm, array[chunk(n, p, r - 1 - s)], right, arrived, left, tag)
        ufunc(own, arrived, out=own)
    # end of hole


def all_gather(comm, array, tag=0):
    """Give every rank chunk i of rank i's `array`, for all i; in place.

    Step s = 0 ... p - 2: send chunk r - s to the right, receive chunk r - 1 - s from the left into
    its place. A rank sends p - 1 messages, each one chunk.
    """
    p, r, n = comm.size, comm.rank, array.size
    left, right = (r - 1) % p, (r + 1) % p
    # hole 3: p - 1 times: pass on what came last
    for s in range(p - 1):
        arriving = array[chunk(n, p, r - 1 - s)]
        exchange(comm, array[chunk(n, p, r - s)], right, arriving, left, tag)
    # end of hole


def all_reduce(comm, array, ufunc=np.add, tag=0):
    """Replace `array` by its sum over ranks, in place: exercises 2 and 3, one after the other."""
    reduce_scatter(comm, array, ufunc, tag)
    all_gather(comm, array, tag)


def ring(comm, array, ufunc=np.add, tag=0, piece_bytes=1 << 20):
    """The same, each chunk in pieces: a generator that yields each request it has to wait for.

    It never waits itself: whoever drives it does, or works meanwhile (`run` below). There are
    2 (p - 1) steps of k pieces; message m is piece m % k of step m // k:

        send      part(m, 1) to the right          the chunk r - 1 - step
        receive   part(m, 2) from the left         the chunk r - 2 - step
        messages below (p - 1) k are combined with what is there; later ones replace it

    The receive of message m + 1 is posted before message m is waited for. Nothing is received into
    an array from which a message is still being sent, nor into one that is not used up. At the end
    every request, of sends too, has been yielded: only then may the caller use `array`.
    """
    p, n = comm.size, array.size
    left, right = (comm.rank - 1) % p, (comm.rank + 1) % p
    k = max(1, ceil(array.nbytes / (p * piece_bytes)))  # pieces of a chunk
    summed, total = (p - 1) * k, 2 * (p - 1) * k

    def part(m, lag):
        """The piece of `array` that is message m to the right (lag 1) or from the left (lag 2)."""
        step, piece = divmod(m, k)
        return array[chunk(n, p * k, (comm.rank - lag - step) % p * k + piece)]

    buffers = [np.empty(ceil(n / (p * k)), array.dtype) for _ in range(2)]
    # hole 4: all messages, each receive posted one ahead; yield requests instead of waiting
    sends = []

    def into(m):
        return buffers[m % 2][: part(m, 2).size] if m < summed else part(m, 2)

    receive = comm.irecv(into(0), left, tag) if total else None
    for m in range(total):
        sends.append(comm.isend(part(m, 1), right, tag))
        current = receive
        if m + 1 < total:
            if m + 1 >= summed:  # what was sent from there has to have left
                yield sends[m + 1 - summed]
            receive = comm.irecv(into(m + 1), left, tag)
        yield current
        if m < summed:
            ufunc(part(m, 2), into(m), out=part(m, 2))
    yield from sends
    # end of hole


def run(steps):
    """Drive a generator of requests to its end, waiting for each."""
    for request in steps:
        request.wait()


def costs(p, nbytes, alpha, beta):
    """Seconds of an all-reduce of `nbytes` on p > 1 ranks, by algorithm, where a message of b bytes
    takes alpha + beta b and a rank sends one and receives one at a time; adding costs nothing.

    Returns {"root", "tree", "doubling", "ring": seconds}, equations (1) to (4) of the text.
    Doubling is for powers of two; for other p, its entry is infinite.
    """
    # hole 5: the four equations
    rounds = ceil(log2(p))
    whole = alpha + beta * nbytes
    return {
        "root": 2 * (p - 1) * whole,
        "tree": 2 * rounds * whole,
        "doubling": rounds * whole if p == 2**rounds else inf,
        "ring": 2 * (p - 1) * (alpha + beta * nbytes / p),
    }
    # end of hole


def crossover(p, alpha, beta):
    """From how many bytes on a ring beats doubling, p a power of two; infinity where it never does.

    Equation (5) of the text.
    """
    # hole 5: where both costs are equal
    rounds = log2(p)
    bytes_saved = rounds - 2 * (p - 1) / p  # as parts of the array
    if bytes_saved <= 0:
        return inf
    return alpha / beta * (2 * (p - 1) - rounds) / bytes_saved
    # end of hole
