"""What must hold of the answers of chapter 5: values against float64, dtypes, arguments unchanged;
of the kernel also order and traffic."""

import tracemalloc

import numpy as np

from minillm.kernels.runtime.cuda import blocks
from minillm.learn import expect, same
from minillm.learn.gpu import launch
from minillm.learn.roofline import place

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
    for row, y in [
        ([1e4, 1e4], [0.5, 0.5]),
        ([-1e4, -1e4], [0.5, 0.5]),
        ([0.0, 5000], [0, 1]),
        ([-np.inf, 2], [0, 1]),
    ]:
        same(f"softmax of {row}", _kept(work.softmax, np.array([row])), np.array([y]))
    rows = np.array([[0.0, 0], [1e4, 1e4]])
    same(f"softmax of {rows.tolist()}", work.softmax(rows), np.full((2, 2), 0.5))
    x = np.ones((2, 1000), np.float32)
    tracemalloc.start()
    y = work.softmax(x)
    dx = work.softmax_backward(x, y)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    _float32(y=y, dx=dx)
    expect(most < 100 * x.nbytes, f"x of {x.nbytes:,} bytes takes {most:,}: no (C, C) matrix")


def check_cross_entropy(work):
    rng = np.random.default_rng(1)
    for N, C in SHAPES:
        case, x, targets = f"x of shape {N, C}", rng.normal(0, 3, (N, C)), rng.integers(0, C, N)
        y = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        losses, dx = _several(_kept(work.cross_entropy, x, targets), 2)
        same(f"{case}: losses", losses, -np.log(y[np.arange(N), targets]), atol=1e-12)
        same(f"{case}: dx", dx, y - np.eye(C)[targets], atol=1e-12)
    x = np.array([[0, 1000], [-1000, 0], [200, 200]], np.float32)
    losses, dx = _several(_kept(work.cross_entropy, x, np.array([0, 0, 1])), 2)
    wanted = np.array([1000, 1000, np.log(2)])
    same("losses of [0, 1000], [-1000, 0], [200, 200]", losses, wanted, rtol=1e-4)
    same("dx of the same", dx, np.array([[-1, 1], [-1, 1], [0.5, -0.5]]))
    _float32(losses=losses, dx=dx)


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
    _float32(y=y, rstd=rstd)
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
    args = (each.astype(np.float32) for each in (dy, x, weight, mean, rstd))
    dx, dweight, dbias = work.layer_norm_backward(*args)
    _float32(dx=dx, dweight=dweight, dbias=dbias)


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


def _float32(**results):
    for name, one in results.items():
        expect(one.dtype == np.float32, f"{name} for float32 is {one.dtype}, expected float32")


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
