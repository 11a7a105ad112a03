"""Checks, hints and wrong answers of chapter 5."""

import numpy as np

from minillm.errors import UserError
from minillm.kernels.runtime.cuda import blocks
from minillm.learn import Exercise, Plug, Wrong, expect, same
from minillm.learn.gpu import launch
from minillm.learn.roofline import place

FILES = ("layer_norm.py", "softmax.cu")
SHAPES = [(1, 1), (3, 5), (5, 3), (2, 129)]


def check_softmax(work):
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        case, x, dy = f"x of shape {shape}", rng.normal(0, 3, shape), rng.normal(size=shape)
        y = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        same(f"{case}: y", _kept(work.softmax, x), y)
        jacobian = np.einsum("nc,ck->nck", y, np.eye(shape[1])) - y[:, :, None] * y[:, None, :]
        dx = np.einsum("nc,nck->nk", dy, jacobian)
        same(f"{case}: dx", _kept(work.softmax_backward, dy, y), dx, atol=1e-12)
    for row, y in ([1e4, 1e4], [0.5, 0.5]), ([-1e4, -1e4], [0.5, 0.5]), ([-np.inf, 2], [0, 1]):
        same(f"softmax of {row}", _kept(work.softmax, np.array([row])), np.array([y]))
    rows = np.array([[0.0, 0], [1e4, 1e4]])
    same(f"softmax of {rows.tolist()}", work.softmax(rows), np.full((2, 2), 0.5))
    y = work.softmax(np.ones((2, 3), np.float32))
    expect(y.dtype == np.float32, f"softmax of float32 is {y.dtype}, expected float32")


def check_cross_entropy(work):
    rng = np.random.default_rng(1)
    for N, C in SHAPES:
        case, x, targets = f"x of shape {N, C}", rng.normal(0, 3, (N, C)), rng.integers(0, C, N)
        y = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        losses, dx = _several(_kept(work.cross_entropy, x, targets), 2)
        same(f"{case}: losses", losses, -np.log(y[np.arange(N), targets]), atol=1e-12)
        same(f"{case}: dx", dx, y - np.eye(C)[targets], atol=1e-12)
    x = np.array([[0, 1000], [-1000, 0], [5000, 5000]], np.float32)
    losses, dx = _several(_kept(work.cross_entropy, x, np.array([0, 0, 1])), 2)
    same("losses of [0, 1000], [-1000, 0], [5000, 5000]", losses, np.array([1000, 1000, np.log(2)]))
    same("dx of the same", dx, np.array([[-1, 1], [-1, 1], [0.5, -0.5]]))
    expect(dx.dtype == np.float32, f"dx for float32 is {dx.dtype}, expected float32")


def check_layer_norm_forward(work):
    rng, eps = np.random.default_rng(2), 0.01
    for N, C in SHAPES:
        case, x = f"x of shape {N, C}", rng.normal(0.5, 2, (N, C))
        weight, bias = rng.normal(1, 0.5, C), rng.normal(size=C)
        mean = x.sum(-1) / C
        rstd = (((x - mean[:, None]) ** 2).sum(-1) / C + eps) ** -0.5
        y = (x - mean[:, None]) * rstd[:, None] * weight + bias
        got = _kept(work.layer_norm_forward, x, weight, bias, eps)
        for name, one, wanted in zip(("y", "mean", "rstd"), _several(got, 3), (y, mean, rstd)):
            same(f"{case}: {name}", one, wanted, atol=1e-12)
    x = (1000 + rng.normal(size=(2, 64))).astype(np.float32)
    one, zero = np.ones(64, np.float32), np.zeros(64, np.float32)
    y, _, rstd = work.layer_norm_forward(x, one, zero, 1e-5)
    rstd64 = (x.astype(np.float64).var(-1) + 1e-5) ** -0.5
    same("float32, numbers near 1000: rstd", rstd, rstd64, rtol=1e-3)
    expect(y.dtype == np.float32, f"y for float32 is {y.dtype}, expected float32")
    y, _, rstd = work.layer_norm_forward(np.full((1, 4), 3.0), one[:4], zero[:4], 0.25)
    same("a constant row, eps 0.25: rstd", rstd, np.array([2.0]))
    same("a constant row: y", y, np.zeros((1, 4)))


def check_layer_norm_backward(work):
    rng, eps = np.random.default_rng(3), 0.01
    for N, C in [*SHAPES, (4, 4)]:
        case = f"x of shape {N, C}"
        x, dy = rng.normal(0.5, 2, (N, C)), rng.normal(size=(N, C))
        weight, bias = rng.normal(1, 0.5, C), rng.normal(size=C)
        mean, rstd = x.mean(-1), (x.var(-1) + eps) ** -0.5

        def loss(x, weight, bias):
            centred = x - x.mean(-1, keepdims=True)
            rstd = ((centred**2).mean(-1, keepdims=True) + eps) ** -0.5
            return (dy * (centred * rstd * weight + bias)).sum()  # noqa: B023

        got = _several(_kept(work.layer_norm_backward, dy, x, weight, mean, rstd), 3)
        for i, name in enumerate(("dx", "dweight", "dbias")):
            wanted = _difference(loss, [x, weight, bias], i)
            same(f"{case}: {name}", got[i], wanted, rtol=1e-6, atol=1e-7)


def check_softmax_kernel(work):
    file, rng = work.folder / "softmax.cu", np.random.default_rng(4)
    for N, C in [(1, 1), (3, 5), (2, 128), (2, 129), (3, 1000)]:
        x = rng.normal(0, 3, (N, C)).astype(np.float32)
        x[0] += 1000
        x[N // 2 :] -= 2000
        x[-1, : C // 2] = -np.inf
        y, case = np.full((N, C), np.nan, np.float32), f"x of shape {N, C}"
        moved = launch(file, "softmax", N, y, x, C)
        e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
        same(f"{case}: y", y, e / e.sum(-1, keepdims=True), rtol=1e-5, atol=1e-7)
    least = blocks(N * C, 8)
    load, store = (moved[f"global {kind}"].units for kind in ("load", "store"))
    expect(
        load <= 3 * least,
        f"{case}: global loads move {load:,} sectors, where three passes need {3 * least:,}:"
        " at any moment a warp's lanes should be at neighbours",
    )
    expect(store == least, f"{case}: stores move {store:,} sectors, where {least:,} suffice")
    N, C = 1 << 14, 1 << 12
    y, x = (np.zeros((N, C), np.float32) for _ in range(2))
    return place(file, "softmax", N, y, x, C, flops=5 * N * C)


def _kept(function, *args):
    """function(*args), which must leave its arguments alone."""
    before = [np.copy(a) for a in args]
    result = function(*args)
    for i, (a, b) in enumerate(zip(args, before)):
        unchanged = np.array_equal(a, b, equal_nan=True)
        expect(unchanged, f"{function.__name__} changed its argument {i + 1}: make a new array")
    return result


def _several(result, count):
    given = len(result) if isinstance(result, tuple) else type(result).__name__
    expect(given == count, f"return {count} arrays, as a tuple: this is {given}")
    return result


def _difference(loss, args, which, h=1e-5):
    """The gradient of loss(*args) with respect to args[which], by central differences."""
    found = np.zeros_like(args[which])
    for index in np.ndindex(found.shape):
        sides = []
        for step in (h, -h):
            moved = [a.copy() for a in args]
            moved[which][index] += step
            sides.append(loss(*moved))
        found[index] = (sides[0] - sides[1]) / (2 * h)
    return found


EXERCISES = (
    Exercise(
        "Softmax, forward and backward",
        check_softmax,
        hints=(
            "Everything happens along the last axis; keepdims=True keeps a column that broadcasts.",
            "Take x.max(-1, keepdims=True) from x before np.exp. In the backward the sum of dy * y"
            " over the row is one number a row.",
            "e = np.exp(x - x.max(-1, keepdims=True)); e / e.sum(-1, keepdims=True). And"
            " y * (dy - (dy * y).sum(-1, keepdims=True)).",
        ),
        wrong=(
            Wrong("no shift", "y = np.exp(x - x.max(-1, keepdims=True))", "y = np.exp(x)",
                  says="softmax of [10000.0, 10000.0][0, 0] is nan, expected 0.5"),
            Wrong("one maximum for all rows", "y = np.exp(x - x.max(-1, keepdims=True))",
                  "y = np.exp(x - x.max())",
                  says="softmax of [[0.0, 0.0], [10000.0, 10000.0]][0, 0] is nan, expected 0.5"),
            Wrong("over columns", "y / y.sum(-1, keepdims=True)", "y / y.sum(0, keepdims=True)",
                  says="x of shape (3, 5): y[0, 0] is"),
            Wrong("only the diagonal of the Jacobian", "y * (dy - (dy * y).sum(-1, keepdims=True))",
                  "y * dy * (1 - y)", says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("the mean in place of the sum", "(dy * y).sum(-1, keepdims=True)",
                  "(dy * y).mean(-1, keepdims=True)", says="x of shape (3, 5): dx[0, 0] is"),
        ),
    ),
    Exercise(
        "Cross-entropy and its gradient",
        check_cross_entropy,
        hints=(
            "log(softmax(x)) is x minus the logarithm of a sum: no division, no small probability.",
            "With s = x - max: losses = log(sum(exp(s))) - s[target]. x[np.arange(N), targets]"
            " picks one element of each row.",
            "dx = exp(s) / sum(exp(s)); dx[np.arange(N), targets] -= 1",
        ),
        wrong=(
            Wrong("the logarithm of a probability that is 0",
                  "np.log(total) - shifted[np.arange(N), targets]",
                  "-np.log(e[np.arange(N), targets] / total)",
                  says="[0] is inf, expected 1000"),
            Wrong("the target not taken away", "    dx[np.arange(N), targets] -= 1\n", "",
                  says="x of shape (1, 1): dx[0, 0] is 1, expected 0"),
            Wrong("the target's column in every row", "dx[np.arange(N), targets] -= 1",
                  "dx[:, targets] -= 1", says="x of shape (3, 5): dx[0,"),
            Wrong("the mean over rows", "e / total[:, None]\n    dx[np.arange(N), targets] -= 1",
                  "e / total[:, None]\n    dx[np.arange(N), targets] -= 1\n    dx /= N",
                  says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("the shift, once only", "np.log(total) - shifted[", "np.log(total) - x[",
                  says="x of shape (1, 1): losses[0] is"),
        ),
    ),
    Exercise(
        "Layer norm, forward",
        check_layer_norm_forward,
        hints=(
            "Mean and variance are of a row: one number each. [:, None] turns (N,) into a column.",
            "First the mean; then x - mean; then the mean of its square; eps is added to the"
            " variance, inside the root.",
            "rstd = 1 / np.sqrt(((x - mean[:, None]) ** 2).mean(-1) + eps);"
            " y = (x - mean[:, None]) * rstd[:, None] * weight + bias",
        ),
        wrong=(
            Wrong("statistics over rows: batch norm",
                  "mean = x.mean(-1)\n    centred = x - mean[:, None]",
                  "mean = x.mean(0)\n    centred = x - mean",
                  says="x of shape (3, 5): y[0, 0] is"),
            Wrong("variance over C - 1", "(centred**2).mean(-1)",
                  "(centred**2).sum(-1) / max(x.shape[-1] - 1, 1)",
                  says="x of shape (3, 5): y[0, 0] is"),
            Wrong("E[x^2] - E[x]^2", "(centred**2).mean(-1)", "((x**2).mean(-1) - mean**2)",
                  says="float32, numbers near 1000: rstd[0] is"),
            Wrong("eps outside the root",
                  "1 / np.sqrt((centred**2).mean(-1) + eps)",
                  "1 / (np.sqrt((centred**2).mean(-1)) + eps)",
                  says="x of shape (1, 1): rstd[0] is 100, expected 10"),
            Wrong("weight forgotten", "rstd[:, None] * weight + bias", "rstd[:, None] + bias",
                  says="x of shape (3, 5): y[0, 0] is"),
        ),
    ),
    Exercise(
        "Layer norm, backward",
        check_layer_norm_backward,
        hints=(
            "Recompute xhat from x, mean and rstd. weight multiplies each channel, so what reaches"
            " xhat is g = dy * weight.",
            "Two means over the row, of g and of g * xhat, are taken away from g; rstd multiplies"
            " the result. The parameters see every row: sums over axis 0.",
            "dx = rstd[:, None] * (g - g.mean(-1, keepdims=True)"
            " - xhat * (g * xhat).mean(-1, keepdims=True))",
        ),
        wrong=(
            Wrong("mean and rstd taken for constants",
                  "g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True)", "g",
                  says="x of shape (1, 1): dx[0, 0] is"),
            Wrong("the path of the mean", "g - g.mean(-1, keepdims=True) - xhat", "g - xhat",
                  says="x of shape (1, 1): dx[0, 0] is"),
            Wrong("the path of the variance", " - xhat * (g * xhat).mean(-1, keepdims=True)", "",
                  says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("sums in place of means", "(g * xhat).mean(-1, keepdims=True)",
                  "(g * xhat).sum(-1, keepdims=True)", says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("rstd forgotten", "return dx * rstd[:, None]", "return dx",
                  says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("weight in dweight", "(dy * xhat).sum(0)", "(g * xhat).sum(0)",
                  says="x of shape (3, 5): dweight[0] is"),
            Wrong("dbias over the row", "dy.sum(0)", "dy.sum(-1)",
                  says="x of shape (3, 5): dbias has shape (3,), expected (5,)"),
        ),
    ),
    Exercise(
        "Softmax in one kernel",
        check_softmax_kernel,
        hints=(
            "A thread without elements brings what changes nothing: minus_infinity() for the"
            " largest, 0 for the sum.",
            "Three loops `for (int c = threadIdx.x; c < C; c += THREADS)`. block_max and block_sum"
            " are called once each, by all threads, outside any `if` and any loop.",
            "When block_max returns, a slow thread may still be reading partial[0] while a fast one"
            " writes it in block_sum: __syncthreads() between them.",
        ),
        needs=("g++",),
        wrong=(
            Wrong("no barrier between them", "block_max(largest, partial);\n    __syncthreads();",
                  "block_max(largest, partial);", file="softmax.cu", says="race on shared partial"),
            Wrong("no shift", "total += expf(row[c] - largest)", "total += expf(row[c])",
                  file="softmax.cu", says="y[0, 0] is"),
            Wrong("the largest so far from 0", "float largest = minus_infinity();",
                  "float largest = 0;", file="softmax.cu", says="y["),
            Wrong("each thread its own sum", "total = block_sum(total, partial);", "",
                  file="softmax.cu", says="x of shape (3, 5): y[0, 0] is"),
            Wrong("only the threads with elements meet",
                  "    float largest = minus_infinity();",
                  "    if (threadIdx.x >= C) return;\n    float largest = minus_infinity();",
                  file="softmax.cu", says="divergent barrier"),
            Wrong("rows longer than the block", "c += THREADS) out[c]", "c += C) out[c]",
                  file="softmax.cu", says="x of shape (2, 129): y[0, 128] is nan"),
        ),
    ),
)  # fmt: skip


def _with_options(cross_entropy):
    """What the engine asks for besides: rows to ignore, and the gradient in the logits' place."""

    def run(logits, targets, ignore_index, label_smoothing, inplace):
        if label_smoothing:
            raise UserError("chapter 5's cross_entropy has no label smoothing")
        counted = targets != ignore_index
        losses, dlogits = cross_entropy(logits, np.where(counted, targets, 0))
        losses, dlogits = losses * counted, dlogits * counted[:, None]
        if inplace:
            logits[...] = dlogits
        return losses, logits if inplace else dlogits

    return run


PLUGS = (
    Plug("cross_entropy", "kernel cross_entropy_forward_backward", 2, adapt=_with_options),
    Plug("layer_norm_forward", "kernel layer_norm_forward", exercise=3),
    Plug("layer_norm_backward", "kernel layer_norm_backward", exercise=4),
)
