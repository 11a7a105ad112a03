"""Data parallelism: gradients summed over ranks, in buckets, while backward runs. Your file for
chapter 11.

`comm` is a rank of minillm.distributed. From there,

    all_reduce(comm, array)                 sum a flat array over ranks, in place; waits
    all_reduce.steps(comm, array, tag=3)    the same as a generator of requests, which never waits
    all_gather(comm, array)                 n = comm.size elements: element r of rank r to all
    Progress()                              generators under way: .start(steps), .poll(), .wait()
"""

from contextlib import contextmanager

import numpy as np

from minillm.distributed import all_gather, all_reduce
from minillm.distributed.steps import Progress


def average(comm, grad, tokens):
    """Make `grad` the gradient of the mean loss over the tokens of all ranks, in place.

    On entry `grad` (n,) is the gradient of the sum of the losses of this rank's `tokens` tokens.
    `tokens` is an int, differs from rank to rank, and may be 0; all together have at least one, and
    may be more than a float32 can count.
    """
    # hole 1: equation (2): sum the gradients, sum the tokens, divide
    count = np.array([tokens], np.int64)
    all_reduce(comm, count)
    all_reduce(comm, grad)
    grad /= count[0]
    # end of hole


def assign_buckets(sizes, itemsize, bucket_bytes):
    """Which parameters are summed together: a list of buckets, each a list of their numbers.

    `sizes` are numbers of elements, of `itemsize` bytes each, in the order in which the model uses
    its parameters; backward completes their gradients from the last to the first. So bucket 0
    begins with the last parameter. A bucket is full once it has at least `bucket_bytes` bytes; the
    last one may have fewer. Each parameter is in one bucket.
    """
    # hole 2: from the last to the first; close a bucket when it is full
    buckets, bucket, nbytes = [], [], 0
    for i in reversed(range(len(sizes))):
        bucket.append(i)
        nbytes += sizes[i] * itemsize
        if nbytes >= bucket_bytes:
            buckets.append(bucket)
            bucket, nbytes = [], 0
    return buckets + [bucket] if bucket else buckets
    # end of hole


def lay_out(sizes, buckets, dtype):
    """(a flat array of zeros for each bucket; by parameter, the view of it for its gradient)."""
    flats, grads = [], [None] * len(sizes)
    for bucket in buckets:
        flats.append(np.zeros(sum(sizes[i] for i in bucket), dtype))
        start = 0
        for i in bucket:
            grads[i] = flats[-1][start : start + sizes[i]]
            start += sizes[i]
    return flats, grads


class OverlappedSum:
    """Sums the gradients of each bucket over ranks as soon as backward has completed them.

        with overlapped.no_sync(): ...      micro-batches but the last: `ready` does nothing
        overlapped.ready(i)                 backward has added the last to the gradient of i
        overlapped.finish()                 all sums are there

    Args:
        comm: the ranks.
        flats: the gradient of each bucket, flat; backward writes into views of it.
        buckets: the parameters of each, the same on all ranks.
    """

    def __init__(self, comm, flats, buckets):
        self.comm, self.flats, self.buckets = comm, flats, buckets
        self.sync = True
        self.progress = Progress()
        self.reset()

    def reset(self):
        """Before each step: nothing has been started, every gradient is owed."""
        self.started = 0  # buckets 0 ... started - 1 have been
        self.owed = [set(bucket) for bucket in self.buckets]

    @contextmanager
    def no_sync(self):
        """Inside, gradients only accumulate."""
        self.sync = False
        yield
        self.sync = True

    def start_next(self):
        """Begin the sum of bucket `started`; it goes on whenever self.progress is polled."""
        k = self.started
        self.progress.start(all_reduce.steps(self.comm, self.flats[k], tag=k))
        self.started += 1

    def ready(self, i):
        """The gradient of parameter `i` is final; never waits for another rank.

        Under no_sync it does nothing. Otherwise parameter i is no longer owed by its bucket; then
        buckets are started, in their order, as long as nothing is owed to the next one: a complete
        bucket waits for those before it, so that all ranks start them in the same order. At last,
        sums under way are moved on: self.progress.poll().
        """
        # hole 3: cross i off, start what can start, move on what is under way
        if not self.sync:
            return
        for owed in self.owed:
            owed.discard(i)
        while self.started < len(self.buckets) and not self.owed[self.started]:
            self.start_next()
        self.progress.poll()
        # end of hole

    def finish(self):
        """Return once all buckets are summed, and be ready for the next step.

        Buckets that have not been started, since backward did not reach all of their parameters,
        start now: the other ranks count on them.
        """
        # hole 3: start the rest, in order; wait; reset
        while self.started < len(self.buckets):
            self.start_next()
        self.progress.wait()
        self.reset()
        # end of hole


def checksum(array):
    """An integer that changes if one bit of `array` changes: the sum of its elements' bits, as
    unsigned integers as wide as they are, modulo 2^32 (2^64 for elements of 8 bytes)."""
    # hole 4: look at the bits as integers and sum them
    bits = np.ascontiguousarray(array).reshape(-1).view(f"uint{8 * array.itemsize}")
    return int(bits.sum(dtype=bits.dtype))
    # end of hole


def odd_ones_out(comm, array):
    """The ranks whose array has another checksum than that of most ranks: a sorted list, the same
    on every rank; empty if all agree, all ranks if no checksum is that of more than half. A
    checksum may need all 64 bits of a uint64."""
    # hole 4: gather all checksums, find the majority's
    sums = np.zeros(comm.size, np.uint64)
    sums[comm.rank] = checksum(array)
    all_gather(comm, sums)
    values, counts = np.unique(sums, return_counts=True)
    if 2 * counts.max() <= comm.size:
        return list(range(comm.size))
    return [rank for rank in range(comm.size) if sums[rank] != values[counts.argmax()]]
    # end of hole
