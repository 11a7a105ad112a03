"""What must hold of the answers of chapter 11, on threads as ranks."""

import threading
from itertools import product

import numpy as np

from minillm.learn import expect, same
from minillm.learn.ranks import on_ranks

# --- 11.1 -----------------------------------------------------------------------------------------


def check_average(work):
    for tokens in ([4, 4], [1, 7], [5, 0, 3], [9, 2, 6, 1], [2**24, 1], [3]):
        p = len(tokens)
        sums = np.random.default_rng(p).standard_normal((p, 7)) * np.array(tokens)[:, None]

        def averaged(comm, sums=sums, tokens=tokens):
            grad = sums[comm.rank].copy()
            work.average(comm, grad, tokens[comm.rank])
            return grad

        case = f"tokens {tokens}" + ", more than float32 can count" * (sum(tokens) > 2**24)
        for rank, grad in enumerate(on_ranks(case, p, averaged)):
            wanted = sums.sum(0) / sum(tokens)
            same(f"{case}: the gradient on rank {rank}", grad, wanted, 1e-12, 1e-14)


# --- 11.2 -----------------------------------------------------------------------------------------


def check_buckets(work):
    for sizes, itemsize, bucket_bytes, wanted in (
        ([10, 20, 30, 40], 4, 200, [[3, 2], [1, 0]]),
        ([10, 20, 30, 40], 4, 280, [[3, 2], [1, 0]]),
        ([10, 20, 30, 40], 4, 281, [[3, 2, 1], [0]]),
        ([10, 20, 30, 40], 8, 200, [[3], [2], [1, 0]]),
        ([5, 1000, 5, 5], 4, 100, [[3, 2, 1], [0]]),
        ([5, 6, 7], 4, 1, [[2], [1], [0]]),
        ([5, 6, 7], 4, 10**9, [[2, 1, 0]]),
        ([], 4, 100, []),
    ):
        got = work.assign_buckets(list(sizes), itemsize, bucket_bytes)
        call = f"assign_buckets({sizes}, {itemsize}, {bucket_bytes})"
        expect(got is not None, f"{call} is None: is a `return` missing?")
        got = [list(bucket) for bucket in got]
        expect(got == wanted, f"{call} is {got}, expected {wanted}")


# --- 11.3 -----------------------------------------------------------------------------------------

SIZES, BUCKETS = [3, 50, 4, 200, 9], [[4, 3], [2], [1, 0]]
TOTAL = sum(SIZES)


class Step:
    """One rank with its OverlappedSum; `order` is that in which its gradients become final."""

    def __init__(self, comm, work):
        self.comm = comm
        flats, self.grads = work.lay_out(SIZES, BUCKETS, np.float64)
        self.sum = work.OverlappedSum(comm, flats, BUCKETS)
        self.tags: list[int] = []  # of the first message of each bucket
        isend = comm.isend

        def noted(array, dest, tag=0):
            if tag not in self.tags:
                self.tags.append(tag)
            return isend(array, dest, tag)

        comm.isend = noted

    def backward(self, order, value):
        for i in order:
            self.grads[i] += value + i
            self.sum.ready(i)

    def result(self):
        return [grad.copy() for grad in self.grads]

    def zero(self):
        self.tags.clear()
        for grad in self.grads:
            grad[:] = 0


def wanted_sums(values):
    return [np.full(n, sum(v + i for v in values)) for i, n in enumerate(SIZES)]


def check_overlapped(work):
    never_waits(work)
    moves_on(work)
    for p in (2, 3, 4):
        case = f"{p} ranks"
        for rank, (first, second, tags) in enumerate(on_ranks(case, p, two_steps, work)):
            where = f"on rank {rank} of {p}"
            same(f"the sums {where}", first, wanted_sums(range(1, p + 1)))
            same(f"the sums of the second step {where}", second, wanted_sums(range(p)))
            expect(
                tags == [0, 1, 2],
                f"{where} buckets start in the order {tags}: ranks complete them in different"
                " orders, but must start them in the same one, 0, 1, 2",
            )
        for rank, (silent, sums) in enumerate(on_ranks(case, p, accumulated, work)):
            expect(
                not silent, f"under no_sync rank {rank} of {p} has sent {silent} bytes, expected 0"
            )
            same(f"the accumulated sums on rank {rank} of {p}", sums, wanted_sums([2.0] * p))
        case = f"{p} ranks, backward does not reach parameters 2 and 0"
        for rank, sums in enumerate(on_ranks(case, p, unreached, work)):
            wanted = [s * (i not in (0, 2)) for i, s in enumerate(wanted_sums([1] * p))]
            same(f"{case}: the sums on rank {rank}", sums, wanted)


def two_steps(comm, work):
    step = Step(comm, work)
    # Rank 1 completes its buckets the other way round.
    order = [0, 1, 2, 3, 4] if comm.rank == 1 else [4, 3, 2, 1, 0]
    step.backward(order, comm.rank + 1)
    step.sum.finish()
    first, tags = step.result(), list(step.tags)
    step.zero()
    step.backward([4, 3, 2, 1, 0], comm.rank)
    step.sum.finish()
    return first, step.result(), tags


def accumulated(comm, work):
    step = Step(comm, work)
    with step.sum.no_sync():
        step.backward([4, 3, 2, 1, 0], 0.5)
    silent = comm.bytes_sent
    for i in (4, 3, 2, 1, 0):
        step.grads[i] += 1.5
        step.sum.ready(i)
    step.sum.finish()
    return silent, step.result()


def unreached(comm, work):
    step = Step(comm, work)
    step.backward([4, 3, 1], 1)
    step.sum.finish()
    return step.result()


def moves_on(work):
    """Each `ready` moves on the sums under way: two ranks in step, two buckets."""
    together = threading.Barrier(2)
    buckets = [[30], list(range(30))]

    def in_step(comm):
        flats, grads = work.lay_out([4] * 31, buckets, np.float64)
        overlapped = work.OverlappedSum(comm, flats, buckets)
        for i in reversed(range(1, 31)):
            grads[i] += 1
            overlapped.ready(i)
            together.wait(5)
        arrived = grads[30].copy()
        overlapped.finish()
        return arrived

    for arrived in on_ranks("2 ranks, buckets [30] and [29 ... 0]", 2, in_step):
        expect(
            (arrived == 2).all(),
            "bucket 0 was started by the first of 30 calls of ready, on both ranks, and is not"
            " summed after the last: each call must move on what is under way (poll)",
        )


def never_waits(work):
    """Rank 1 begins only when rank 0's `ready` has returned for all parameters."""
    gone_on = threading.Event()

    def late(comm):
        step = Step(comm, work)
        if comm.rank == 1:
            expect(gone_on.wait(2.0), "ready waits for another rank: start the sum, and leave")
            step.backward([4, 3, 2, 1, 0], 0)
        else:
            try:
                starts_in_time(step)
            finally:
                gone_on.set()
        step.sum.finish()

    on_ranks("2 ranks, one of them late", 2, late)


def starts_in_time(step):
    step.backward([4, 2], 0)
    expect(
        step.tags == [],
        f"with 4 and 2 ready, of [4, 3] and [2], messages of buckets {step.tags} were sent: a"
        " bucket starts when all of its gradients are final and those before it have started",
    )
    step.backward([3], 0)
    expect(
        step.tags == [0, 1],
        "buckets [4, 3] and [2] are complete when 4, 2 and 3 are ready: both must be started then,"
        f" but messages of buckets {step.tags} were sent",
    )
    step.backward([1, 0], 0)


# --- 11.4 -----------------------------------------------------------------------------------------


def check_replicas(work):
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        array = (rng.standard_normal(1000) * 10.0 ** rng.integers(-8, 8, 1000)).astype(dtype)
        before, width = array.copy(), 8 * array.itemsize
        right = work.checksum(array)
        same("the array after checksum", array, before, 0, 0)
        name = dtype.__name__
        expect(work.checksum(array.copy()) == right, f"two checksums of a {name} array differ")
        for bit in (0, 1, width // 2, width - 2, width - 1):
            for i in (0, 17, 999):
                flipped = array.copy()
                flipped.view(f"uint{width}")[i] ^= np.array(1, f"uint{width}") << bit
                expect(
                    work.checksum(flipped) != right,
                    f"checksum of 1000 {name} does not see bit {bit} of element {i} flipped, which"
                    f" makes {array[i]:.9g} into {flipped[i]:.9g}",
                )
        wanted = sum(array.view(f"uint{width}").tolist()) % 2**width
        expect(
            right == wanted,
            f"checksum of 1000 {name} is {right}, expected {wanted}: the sum of their bits as"
            f" unsigned integers, modulo 2^{width}",
        )
        nan = np.full(5, np.nan, dtype)
        expect(work.checksum(nan) == work.checksum(nan.copy()), f"checksums of {name} NaNs differ")
    cases = (4, []), (4, [0]), (5, [1, 3]), (3, [2]), (2, [0, 1]), (4, [0, 1, 2, 3]), (4, [1, 2])
    for dtype, (p, differ) in product((np.float32, np.float64), cases):

        def odd(comm, differ=differ, dtype=dtype):
            array = np.ones(100, dtype)
            if comm.rank in differ:
                array[7] += np.finfo(dtype).eps * (1 + comm.rank)  # in its last bits
            return work.odd_ones_out(comm, array)

        case = f"{p} ranks, of which {differ} differ, {dtype.__name__}"
        wrong = differ if 2 * len(differ) < p else list(range(p))
        for rank, got in enumerate(on_ranks(case, p, odd)):
            expect(got is not None, f"{case}: odd_ones_out is None: is a `return` missing?")
            got = [int(r) for r in got]
            expect(got == wrong, f"{case}: on rank {rank} odd_ones_out is {got}, expected {wrong}")
