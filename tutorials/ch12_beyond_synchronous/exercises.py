"""Checks, hints and wrong answers of chapter 12."""

from fractions import Fraction

import numpy as np

from minillm.distributed import all_reduce, run_threads
from minillm.distributed.steps import run
from minillm.learn import Exercise, Plug, Wrong, expect, same

FILES = ("beyond.py",)


def check_server(work):
    rng = np.random.default_rng(0)
    first = rng.normal(size=5)
    server = work.Server(first, workers=4, lr=0.3, staleness=1)
    wanted, pushed = first.copy(), [0, 0, 0, 0]
    for worker in (2, 0, 2, 1):
        pulled, kept = server.pull(), wanted.copy()
        grad = rng.normal(size=5)
        given = grad.copy()
        server.push(worker, grad)
        wanted -= 0.3 / 4 * given
        pushed[worker] += 1
        same(f"params after a push of worker {worker}", server.params, wanted, 1e-12)
        same("pushed", server.pushed, np.array(pushed))
        same("the gradient that was pushed", grad, given)
        same("what was pulled before a push", pulled, kept, 1e-12)
        pulled[...] = server.pull()[...] = 0
        same("params after a worker changed what it had pulled", server.params, wanted, 1e-12)
    for staleness in (0, 1, 3):
        server = work.Server(first, workers=3, lr=0.1, staleness=staleness)
        for counts in ([0, 0, 0], [1, 0, 0], [4, 2, 3], [2, 2, 5], [7, 7, 7]):
            server.pushed = np.array(counts)
            for worker in range(3):
                told = bool(server.may_begin(worker))
                right = counts[worker] - min(counts) <= staleness
                words = f"staleness {staleness}, pushed {counts}: may_begin({worker}) is {told}"
                expect(told == right, f"{words}, expected {right}")
    centres, first = rng.normal(size=(3, 2)), np.array([4.0, -3.0])
    server = work.Server(first, workers=3, lr=0.2, staleness=0)
    seconds = rng.exponential(size=(3, 6))
    now, _ = work.race(server, lambda worker, params: params - centres[worker], seconds)
    same("params of a race with staleness 0", server.params,
         centres.mean(0) + 0.8**6 * (first - centres.mean(0)), 1e-10)  # fmt: skip
    same("its time", now, seconds.max(0).sum(), 1e-10)


def check_local(work):
    start = np.array([0.25, 100.25, -7.25])
    params, before = start + [4.0, -2.0, 2.0], start.copy()

    def rounded(array):
        array[...] = np.round(array + [1.0, 0.0, -3.0])

    work.average(params, start, 0.5, rounded)
    wanted = before + [3.0, -1.0, -2.0]
    same("params after `average`, whose all_reduce rounds to integers", params, wanted)
    same("start after `average`", start, before)
    for ranks, n, steps, lr in ((1, 3, 2, 0.1), (3, 7, 1, 0.1), (3, 7, 4, 0.2), (4, 2, 9, 0.05)):
        rng = np.random.default_rng(n + steps)
        centres, bends = rng.normal(size=(ranks, n)), rng.uniform(0.5, 2, size=(ranks, n))
        weights, first = rng.dirichlet(np.full(ranks, 3.0)), rng.normal(size=n)

        def local(comm, centres=centres, bends=bends, share=weights, first=first, of=(steps, lr)):
            r, params = comm.rank, first.copy()

            def gradient(p):
                return bends[r] * (p - centres[r])

            for _ in range(2):
                work.local_round(params, gradient, of[1], of[0], share[r],
                                 lambda array: all_reduce(comm, array))  # fmt: skip
            return params

        wanted = first.copy()
        for _ in range(2):
            ends = centres + (1 - lr * bends) ** steps * (wanted - centres)
            wanted = (weights[:, None] * ends).sum(0)
        got = run_threads(ranks, local)
        for r in range(ranks):
            what = f"params of rank {r} of {ranks} after 2 rounds of {steps} steps"
            same(what, got[r], wanted, 1e-9)
            expect(np.array_equal(got[r], got[0]), f"{what}: not the same bits as on rank 0")


def check_top_k(work):
    for n, k, dtype in ((1, 1, "float32"), (7, 3, "float64"), (50, 50, "float32"), (200, 9, "f8")):
        x = np.random.default_rng(n).normal(size=n).astype(dtype)
        x[np.argmax(np.abs(x))] *= -np.sign(x[np.argmax(np.abs(x))])  # the largest is negative
        before, case = x.copy(), f"top_k(x (n = {n},), {k})"
        values, places = (np.asarray(part) for part in work.top_k(x, k))
        same(f"{case}: x afterwards", x, before)
        expect(places.shape == (k,), f"{case}: places has shape {places.shape}, expected ({k},)")
        expect(places.dtype.kind in "iu", f"{case}: places are {places.dtype}, expected integers")
        expect(len(set(places.tolist())) == k, f"{case}: a place comes twice")
        same(f"{case}: values", values, x[places], 0, 0)
        rest = np.delete(np.abs(x), places)
        least = np.abs(values).min()
        larger = rest.size and rest.max() > least
        expect(not larger, f"{case}: leaves out {rest.max(initial=0):.3f}, sends {least:.3f}")
    x = np.array([0.0, 2.0, -2.0, 0.0])
    same("magnitudes of top_k([0, 2, -2, 0], 1)", np.abs(work.top_k(x, 1)[0]), np.array([2.0]))
    tiny = np.array([3e-30, -4e-30, 1e-30], np.float32)
    same("values of top_k([3e-30, -4e-30, 1e-30], 1)", work.top_k(tiny, 1)[0], tiny[1:2], 0, 0)

    rng = np.random.default_rng(3)
    error, grads, sent = np.zeros(6), np.zeros(6), np.zeros(6)
    for step in range(12):
        grad = rng.normal(size=6) * [5, 1, 1, 1, 1, 0.2]
        given, owed = grad.copy(), error + grad
        values, places = work.compress(grad, error, 2)
        case = f"compress, step {step}"
        same(f"{case}: grad afterwards", grad, given)
        same(f"{case}: values, of grad + error at these places", values, owed[places], 1e-12)
        np.add.at(sent, places, values)
        grads += given
        same(f"{case}: all that was sent, and the error", sent + error, grads, 1e-9, 1e-12)
        rest = np.delete(np.abs(owed), places).max()
        least = np.abs(values).min()
        expect(least >= rest, f"{case}: owes {rest:.3f} at a place, but sends only {least:.3f}")


def check_shares(work):
    given = [(10, [1, 1, 1]), (16, [3, 1]), (7, [1, 2, 4]), (11, [1, 1, 1, 1]), (10, [100, 1, 1]),
             (3, [5, 5, 5]), (4, [1000, 1, 1, 1]), (32, [3036, 1107]), (1, [7]), (8, [12, 4, 3, 1]),
             (7, [1, 5, 1, 100, 20, 10])]  # fmt: skip
    rng = np.random.default_rng(0)
    given += [(int(rng.integers(p, 40)), rng.integers(1, 50, p).tolist()) for p in range(1, 9)]
    given += [(int(rng.integers(p, 2 * p)), (rng.integers(1, 9, p) ** 3).tolist())
              for p in range(2, 9)]  # fmt: skip
    for batch, speeds in given:
        array = np.asarray(work.shares(batch, [float(v) for v in speeds]))
        got, case = array.tolist(), f"shares({batch}, {speeds})"
        expect(array.shape == (len(speeds),), f"{case} is {got}, expected {len(speeds)} numbers")
        expect(sum(got) == batch, f"{case} is {got}: they add up to {sum(got)}")
        expect(min(got) >= 1, f"{case} is {got}: a rank has nothing to do")
        wanted = _shares(batch, speeds)
        expect(got == wanted, f"{case} is {got}, expected {wanted}")
        expect(array.dtype.kind in "iu", f"{case} is {got}: samples are integers")


def _shares(batch, speeds):
    """The right answer, in whole numbers."""
    result, ranks, left = [1] * len(speeds), list(range(len(speeds))), batch
    while True:
        quota = {r: Fraction(left * speeds[r], sum(speeds[i] for i in ranks)) for r in ranks}
        slow = [r for r in ranks if quota[r] < 1]
        if not slow:
            break
        ranks, left = [r for r in ranks if r not in slow], left - len(slow)
    for r in ranks:
        result[r] = int(quota[r])
    for r in sorted(ranks, key=lambda r: int(quota[r]) - quota[r])[: batch - sum(result)]:
        result[r] += 1
    return result


def _average(average):
    """As LocalSGD's: for each group of parameters, through exact or compressed sums."""

    def end_of_round(self):
        for i, group in enumerate(self.optimizer.groups):
            data = group.flat.data
            start = self._common[i] if self._common else np.zeros_like(data)

            def summed(array, tag=i):
                run(self.sums.all_reduce(self.comm, array, tag))

            average(data, start, self._share, summed)
            group.flat.changed()

    return end_of_round


def _encode(top_k):
    """As the codec's: values and places into the bytes of a message."""

    def encode(self, x, data):
        if x.size:
            values, indices = self._parts(data, x.dtype)
            values[...], indices[...] = top_k(x, self.kept(x.size))

    return encode


EXERCISES = (
    Exercise(
        "A server that waits for few",
        check_server,
        hints=(
            "May a worker begin that is ahead of the slowest by exactly `staleness`? And what if a"
            " worker writes to what it has pulled?",
            "`push` moves by lr / workers of the gradient and counts; `pull` hands out a copy.",
            "self.params -= self.lr / self.workers * grad; self.pushed[worker] += 1;"
            " return self.pushed[worker] - self.pushed.min() <= self.staleness",
        ),
        wrong=(
            Wrong("learning rate not divided by workers", "self.lr / self.workers * grad",
                  "self.lr * grad", says="params after a push of worker 2[0] is"),
            Wrong("hands out its own memory", "self.params.copy()", "self.params",
                  says="what was pulled before a push"),
            Wrong("one step too strict", "<= self.staleness", "< self.staleness",
                  says="staleness 0, pushed [0, 0, 0]: may_begin(0) is False, expected True"),
            Wrong("holds back the slow, not the fast",
                  "self.pushed[worker] - self.pushed.min()",
                  "self.pushed.max() - self.pushed[worker]",
                  says="pushed [1, 0, 0]: may_begin(0) is True, expected False"),
            Wrong("counts for all", "self.pushed[worker] += 1", "self.pushed += 1",
                  says="pushed[0] is 1, expected 0"),
        ),
    ),
    Exercise(
        "A round of local SGD",
        check_local,
        hints=(
            "`params` changes while you take steps. What does `average` need that is lost then?",
            "A copy of params before the first step. Each rank sends share * (params - start); the"
            " sum of these, added to start, is the average of all ranks' parameters.",
            "change = share * (params - start); all_reduce(change); params[...] = start + change",
        ),
        limit=10,
        wrong=(
            Wrong("start is no copy", "start = params.copy()", "start = params",
                  says="params of rank 0 of 3 after 2 rounds"),
            Wrong("a sum, no mean", "change = share * (params - start)", "change = params - start",
                  says="whose all_reduce rounds to integers[0] is 5.25, expected 3.25"),
            Wrong("sends the parameters themselves",
                  "change = share * (params - start)\n    all_reduce(change)\n"
                  "    params[...] = start + change",
                  "change = share * params\n    all_reduce(change)\n    params[...] = change",
                  says="whose all_reduce rounds to integers[0] is 3, expected 3.25"),
            Wrong("not in place", "params[...] = start + change", "params = start + change",
                  says="whose all_reduce rounds to integers[0] is 4.25, expected 3.25"),
            Wrong("averages after each step",
                  "params -= lr * gradient(params)\n    average(",
                  "params -= lr * gradient(params)\n        average(",
                  says="after 2 rounds of 4 steps[0] is"),
        ),
    ),
    Exercise(
        "Top-k with error feedback",
        check_top_k,
        hints=(
            "-5 is larger than 3 here. And what is not sent now is not lost: it is owed.",
            "Sort the magnitudes, keep the places of the last k. In `compress`, choose from the sum"
            " of the error and the gradient, and let the rest of that sum be the new error.",
            "error += grad; values, places = top_k(error, k); error[places] = 0",
        ),
        wrong=(
            Wrong("the largest, not the largest magnitude", "np.abs(x), kind", "x, kind",
                  says="leaves out"),
            Wrong("squares underflow", "np.argsort(np.abs(x)", "np.argsort(x * x",
                  says="values of top_k([3e-30, -4e-30, 1e-30], 1)[0] is 1e-30, expected -4e-30"),
            Wrong("no feedback", "error[places] = 0", "error[...] = 0",
                  says="step 0: all that was sent, and the error"),
            Wrong("chooses from the gradient alone", "top_k(error, k)", "top_k(grad, k)",
                  says="step 1: values, of grad + error at these places"),
            Wrong("error not in place", "error += grad", "error = error + grad",
                  says="step 0: all that was sent, and the error"),
        ),
    ),
    Exercise(
        "Shares in proportion to speed",
        check_shares,
        hints=(
            "Quotas have fractions. How many samples are left when each rank has its whole part?",
            "Loop: quotas of the ranks that are left; those below 1 get 1 and leave with 1 sample"
            " each. When none is below 1, give whole parts, then one each by largest fraction.",
            "most = np.argsort(np.floor(quota) - quota, kind='stable'): the first"
            " batch_size - result.sum() of these ranks get one more.",
        ),
        wrong=(
            Wrong("rounds", "result[ranks] = np.floor(quota)", "return np.rint(quota)",
                  says="shares(10, [1, 1, 1]) is [3.0, 3.0, 3.0]: they add up to 9"),
            Wrong("not integers", "int(n) for n in result", "float(n) for n in result",
                  says="shares(10, [1, 1, 1]) is [4.0, 3.0, 3.0]: samples are integers"),
            Wrong("in proportion to times", "= np.asarray(speeds,", "= 1 / np.asarray(speeds,",
                  says="shares(16, [3, 1]) is [4, 12], expected [12, 4]"),
            Wrong("the rest to the first", "most[: batch_size - result.sum()]]] += 1",
                  "0]] += batch_size - result.sum()",
                  says="shares(11, [1, 1, 1, 1]) is [5, 2, 2, 2], expected [3, 3, 3, 2]"),
            Wrong("smallest fraction first", "np.argsort(np.floor(quota) - quota",
                  "np.argsort(quota - np.floor(quota)", says="expected"),
            Wrong("a rank without work", "if (quota >= 1).all():", "if True:",
                  says="a rank has nothing to do"),
            Wrong("looks for slow ranks once", "ranks = ranks[quota >= 1]\n",
                  "ranks = ranks[quota >= 1]\n        quota = left * speeds[ranks] /"
                  " speeds[ranks].sum()\n        break\n", says="[1, 1, 1, 3, 0, 1]: a rank has"),
        ),
    ),
)  # fmt: skip

_AVERAGE = "minillm.distributed.sync.local_sgd:LocalSGD._average"
PLUGS = (
    Plug("average", _AVERAGE, 2, _average, "--sync local-sgd"),
    Plug("top_k", "minillm.distributed.codecs:TopK.encode", 3, _encode, "--compress topk"),
    Plug("shares", "minillm.distributed.balance:shares", 4),
)
