"""Checks, hints and wrong answers of chapter 13."""

import numpy as np

from minillm.distributed import chunk, run_threads
from minillm.learn import Exercise, Mistake, Plug, Wrong, expect, same

FILES = ("model_parallel.py",)


def check_memory(work):
    for given, wanted in (
        (dict(n=1000), (2000, 2000, 12000)),
        (dict(n=1000, precision="float32"), (4000, 4000, 8000)),
        (dict(n=1000, dp=8), (2000, 2000, 12000)),
        (dict(n=1000, dp=8, zero=1), (2000, 2000, 1500)),
        (dict(n=1000, dp=8, zero=2), (2000, 250, 1500)),
        (dict(n=1000, dp=8, zero=3), (250, 250, 1500)),
        (dict(n=1000, tp=2, pp=5), (200, 200, 1200)),
        (dict(n=7 * 10**9, dp=3, tp=4, pp=2, zero=1), (1.75e9, 1.75e9, 3.5e9)),
        (dict(n=480, dp=2, tp=3, pp=4, zero=3, precision="float32"), (80, 80, 160)),
    ):
        words = ", ".join(f"{k}={v!r}" for k, v in given.items())
        same(f"memory({words})", work.memory(**given), wanted, 1e-12)


def check_zero1(work):
    for ranks, n in ((1, 5), (2, 7), (4, 6), (3, 10), (4, 3), (4, 41)):
        rng = np.random.default_rng(n)
        first, grads = rng.normal(size=n), rng.normal(size=(3, ranks, n)) * 10.0

        def train(comm, first=first, grads=grads):
            params = first.copy()
            m, v = np.zeros((2, chunk(comm, params).size))
            for t in range(3):
                work.zero1_step(comm, params, grads[t, comm.rank].copy(), m, v, t + 1, 0.1)
            return params, m, comm.bytes_sent

        wanted, m, v = first.copy(), np.zeros(n), np.zeros(n)
        for t in range(3):
            work.adam(wanted, grads[t].sum(0), m, v, t + 1, 0.1)
        got = run_threads(ranks, train)
        for r, (params, moments, _) in enumerate(got):
            case = f"of rank {r} of {ranks}, n = {n}, after 3 steps"
            same(f"params {case}", params, wanted, 1e-9)
            same(f"m {case}", moments, m[r * n // ranks : (r + 1) * n // ranks], 1e-9)
            expect(np.array_equal(params, got[0][0]), f"params {case}: other bits than rank 0's")
        sent, most = sum(each[2] for each in got) // 8, 3 * 2 * (ranks - 1) * n
        expect(sent <= most, f"{ranks} ranks, n = {n}: sent {sent} numbers in all, expected {most}")


def _mlp(ranks, seed, N=5, C=3, M=7):
    """Whole arrays, and how the hidden channels are shared."""
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(size=(2, N, C))
    w1, b1, w2, b2 = (rng.normal(size=s) for s in ((M, C), (M,), (C, M), (C,)))
    edges = [r * M // ranks for r in range(ranks + 1)]
    return x, dy, w1, b1, w2, b2, [slice(*pair) for pair in zip(edges, edges[1:])]


def check_forward(work):
    whole = np.arange(12.0).reshape(3, 4)

    def sums(comm):
        own = whole + comm.rank
        views = {"an": lambda x: x, "a transposed": lambda x: x.T, "a sliced": lambda x: x[:, 1:]}
        for kind, view in views.items():
            y = work.summed(comm, view(own))
            same(f"x of rank {comm.rank} after summed", own, whole + comm.rank)
            same(f"summed of {kind} x, rank {comm.rank}", y, view(3 * whole + 3), 1e-12)
        kind = work.summed(comm, own.astype(np.float32)).dtype
        expect(kind == np.float32, f"summed of a float32 x is {kind}")

    run_threads(3, sums)
    for ranks in (1, 2, 3):
        x, _, w1, b1, w2, b2, parts = _mlp(ranks, ranks)
        wanted = work.gelu(x @ w1.T + b1) @ w2.T + b2

        def forward(comm, x=x, w1=w1, b1=b1, w2=w2, b2=b2, parts=parts):
            mine = parts[comm.rank]
            got = work.mlp_forward(comm, x, w1[mine], b1[mine], w2[:, mine], b2)
            pair = isinstance(got, tuple) and len(got) == 2
            expect(pair, "mlp_forward returns two things: y, (x, a, h)")
            return *got, comm.bytes_sent

        got = run_threads(ranks, forward)
        for r, (y, saved, _) in enumerate(got):
            same(f"y of rank {r} of {ranks}", y, wanted, 1e-10)
            expect(np.array_equal(y, got[0][0]), f"y of rank {r} of {ranks}: other bits")
            a = x @ w1[parts[r]].T + b1[parts[r]]
            same(f"(x, a, h) of rank {r} of {ranks}", saved, (x, a, work.gelu(a)), 1e-10)
        sent, most = sum(each[2] for each in got) // 8, 2 * (ranks - 1) * x.size
        words = f"sent {sent} numbers in all, one sum of y takes {most}"
        expect(sent <= 1.5 * most, f"forward on {ranks} ranks: {words}")


def check_backward(work):
    for ranks in (1, 2, 3):
        x, dy, w1, b1, w2, b2, parts = _mlp(ranks, 10 + ranks)
        a = x @ w1.T + b1
        da = dy @ w2 * work.gelu_slope(a)
        whole = da @ w1, da.T @ x, da.sum(0), dy.T @ work.gelu(a), dy.sum(0)

        def backward(comm, x=x, dy=dy, w1=w1, b1=b1, w2=w2, parts=parts):
            mine = parts[comm.rank]
            a = x @ w1[mine].T + b1[mine]
            given = dy.copy()
            got = work.mlp_backward(comm, given, (x, a, work.gelu(a)), w1[mine], w2[:, mine])
            same(f"dy of rank {comm.rank} afterwards", given, dy)
            return got, comm.bytes_sent

        got = run_threads(ranks, backward)
        for r, (arrays, _) in enumerate(got):
            mine = parts[r]
            wanted = whole[0], whole[1][mine], whole[2][mine], whole[3][:, mine], whole[4]
            five = isinstance(arrays, (tuple, list)) and len(arrays) == 5
            expect(five, "mlp_backward returns five arrays: dx, dw1, db1, dw2, db2")
            for name, one, other in zip(("dx", "dw1", "db1", "dw2", "db2"), arrays, wanted):
                same(f"{name} of rank {r} of {ranks}", one, other, 1e-9)
        sent, most = sum(each[1] for each in got) // 8, 2 * (ranks - 1) * x.size
        words = f"sent {sent} numbers in all, one sum of dx takes {most}"
        expect(sent <= 1.5 * most, f"backward on {ranks} ranks: {words}")


def check_schedule(work):
    for stages, m in ((1, 1), (1, 3), (2, 1), (2, 4), (3, 2), (4, 4), (4, 9), (5, 3), (3, 12)):
        orders = [list(map(tuple, work.schedule(s, stages, m))) for s in range(stages)]
        for s, order in enumerate(orders):
            case = f"stage {s} of {stages}, {m} micro-batches"
            for kind in ("forward", "backward"):
                did = [i for what, i in order if what == kind]
                expect(did == list(range(m)), f"{case}: {kind} passes {did}, expected 0 to {m - 1}")
            alive = most = 0
            for what, _ in order:
                alive += 1 if what == "forward" else -1
                most = max(most, alive)
                expect(alive >= 0, f"{case}: a backward pass comes before its forward pass")
            bound = min(stages - s, m)
            words = f"keeps the activations of {most} micro-batches, {bound} are enough"
            expect(most <= bound, f"{case}: {words}")
        try:
            _, took = work.clock(orders)
        except RuntimeError as error:
            raise Mistake(f"{stages} stages, {m} micro-batches: {error}") from None
        best = 3 * (m + stages - 1)
        words = f"a step takes {took}, possible is {best}"
        expect(took <= best, f"{stages} stages, {m} micro-batches: {words} (forward 1, backward 2)")


EXERCISES = (
    Exercise(
        "The memory of a rank",
        check_memory,
        hints=(
            "First divide the parameters over the ranks that share a copy. Then ask of each of the"
            " three whether this stage of ZeRO splits it over the copies.",
            "n / (tp * pp) * bytes, and another / dp: of the state from stage 1 on, of gradients"
            " from 2, of weights from 3.",
            "weights / (dp if zero >= 3 else 1), gradients / (dp if zero >= 2 else 1), ...",
        ),
        wrong=(
            Wrong("stage 1 splits gradients, too", "dp if zero >= 2", "dp if zero >= 1",
                  says="memory(n=1000, dp=8, zero=1)[1] is 250, expected 2000"),
            Wrong("weights split from stage 2 on", "dp if zero >= 3", "dp if zero >= 2",
                  says="memory(n=1000, dp=8, zero=2)[0] is 250, expected 2000"),
            Wrong("plain data parallelism splits", "dp if zero >= 1 else 1", "dp",
                  says="memory(n=1000, dp=8)[2] is 1500, expected 12000"),
            Wrong("only tensor parallelism shares", "n / (tp * pp) * each", "n / tp * each",
                  says="memory(n=1000, tp=2, pp=5)[0] is 1000, expected 200"),
        ),
    ),
    Exercise(
        "A step of ZeRO-1",
        check_zero1,
        hints=(
            "An all-reduce is a reduce-scatter and an all-gather. What can be done in between?",
            "The reduce-scatter leaves each rank the sum of its chunk: enough to update that chunk."
            " Then all ranks need all chunks of what has been updated.",
            "own = reduce_scatter(comm, grads); adam(chunk(comm, params), own, m, v, step, lr);"
            " all_gather(comm, params)",
        ),
        limit=10,
        wrong=(
            Wrong("each rank's own gradient", "own = reduce_scatter(comm, grads)",
                  "own = chunk(comm, grads)", says="params of rank 0 of 2, n = 7"),
            Wrong("nobody hears of it", "    all_gather(comm, params)\n", "",
                  says="params of rank 0 of 2, n = 7, after 3 steps[3] is"),
            Wrong("twice the messages", "own = reduce_scatter(comm, grads)",
                  "all_reduce(comm, grads)\n    own = chunk(comm, grads)", says="numbers in all"),
            Wrong("divided by the ranks", "params), own, m,", "params), own / comm.size, m,",
                  says="m of rank 0 of 2, n = 7"),
            Wrong("gathers gradients", "all_gather(comm, params)", "all_gather(comm, grads)",
                  says="params of rank 0 of 2, n = 7, after 3 steps[3] is"),
            Wrong("chunks of rounded size", "adam(chunk(comm, params), own,",
                  "k = comm.rank * (len(params) // comm.size)\n"
                  "    adam(params[k : k + len(m)], own,",
                  says="params of rank 0 of 4, n = 6"),
        ),
    ),
    Exercise(
        "An MLP on many ranks, forward",
        check_forward,
        hints=(
            "Each rank can go from x to a part of the hidden channels, and from those to a term of"
            " y, without a word. Which of the two matrices makes terms?",
            "Sum h @ w2.T over ranks. b2 belongs to y, not to a term of it.",
            "return summed(comm, h @ w2.T) + b2, (x, a, h); summed: y = x.copy(order='C');"
            " all_reduce(comm, y.reshape(-1))",
        ),
        limit=10,
        wrong=(
            Wrong("never summed", "summed(comm, h @ w2.T) + b2", "h @ w2.T + b2",
                  says="y of rank 0 of 2[0, 0] is"),
            Wrong("b2 counted by every rank", "summed(comm, h @ w2.T) + b2",
                  "summed(comm, h @ w2.T + b2)", says="y of rank 0 of 2[0, 0] is"),
            Wrong("always float64", 'x.copy(order="C")', 'x.astype(np.float64, order="C")',
                  says="summed of a float32 x is float64"),
            Wrong("sums a copy of the copy", 'y = x.copy(order="C")', 'y = x.copy(order="K")',
                  says="summed of a transposed x"),
            Wrong("in place", 'y = x.copy(order="C")', "y = x", says="x of rank 0 after summed"),
            Wrong("gelu of the sum", "summed(comm, h @ w2.T) + b2",
                  "gelu(summed(comm, a @ w2.T)) + b2", says="y of rank 0 of 1[0, 0] is"),
        ),
    ),
    Exercise(
        "An MLP on many ranks, backward",
        check_backward,
        hints=(
            "dy is the same everywhere: it needs no sum. x went to all ranks: what comes back?",
            "dh = dy @ w2 is this rank's hidden channels', complete. dx is a sum over all hidden"
            " channels, of which each rank has some.",
            "da = dy @ w2 * gelu_slope(a); dx = summed(comm, da @ w1); the rest without sums",
        ),
        limit=10,
        wrong=(
            Wrong("dx is a term", "summed(comm, da @ w1)", "da @ w1",
                  says="dx of rank 0 of 2[0, 0] is"),
            Wrong("dy summed, too", "da = dy @ w2", "da = summed(comm, dy) @ w2",
                  says="dx of rank 0 of 2[0, 0] is"),
            Wrong("the mean of dy, which is dy", "da = dy @ w2",
                  "da = summed(comm, dy) / comm.size @ w2", says="one sum of dx takes 30"),
            Wrong("db2 summed over ranks", "dy.sum(0)", "summed(comm, dy.sum(0))",
                  says="db2 of rank 0 of 2[0] is"),
            Wrong("slope after gelu", "gelu_slope(a)", "gelu_slope(h)",
                  says="dx of rank 0 of 1[0, 0] is"),
            Wrong("dw1 transposed", "da.T @ x", "x.T @ da", says="dw1 of rank 0 of 1 has shape"),
        ),
    ),
    Exercise(
        "One forward, one backward",
        check_schedule,
        hints=(
            "How many forward passes must stage s have done before the first gradient can come"
            " back to it? The last stage: one.",
            "ahead = min(stages - 1 - stage, micro_batches) forward passes; then pairs of forward i"
            " and backward i - ahead; then `ahead` backward passes are left.",
            "for i in range(ahead, micro_batches): order += [('forward', i), ('backward', i -"
            " ahead)]",
        ),
        limit=5,
        wrong=(
            Wrong("all forward, then all backward", "min(stages - 1 - stage, micro_batches)",
                  "micro_batches", says="keeps the activations of 3 micro-batches, 1 are enough"),
            Wrong("one more ahead", "stages - 1 - stage", "stages - stage",
                  says="keeps the activations of 2 micro-batches, 1 are enough"),
            Wrong("nobody ahead", "min(stages - 1 - stage, micro_batches)", "0",
                  says="2 stages, 4 micro-batches: a step takes 24, possible is 15"),
            Wrong("fewer micro-batches than stages", "min(stages - 1 - stage, micro_batches)",
                  "stages - 1 - stage", says="forward passes [0, 1, 2, 3], expected 0 to 2"),
            Wrong("backward first", '("forward", i), ("backward", i - ahead)',
                  '("backward", i - ahead), ("forward", i)',
                  says="stage 0 of 1, 1 micro-batches: a backward pass comes before"),
            Wrong("the last first", "i) for i in range(micro_batches - ahead, micro_batches)",
                  "i) for i in range(micro_batches - 1, micro_batches - ahead - 1, -1)",
                  says="3, 2 micro-batches: backward passes [1, 0], expected 0 to 1"),
        ),
    ),
)  # fmt: skip

PLUGS = (
    Plug(
        "summed",
        "minillm.parallel.tensor:_summed",
        3,
        lambda f: lambda x, comm: f(comm, x),
        "--tp 2",
    ),
    Plug("schedule", "minillm.parallel.pipeline:schedule", 5),
)
