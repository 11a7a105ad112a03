"""The matrix product beside the generic test: views, stacks, batches made one product."""

import ctypes

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.instrument import compare
from minillm.kernels.matmul import cpu, matmul
from minillm.kernels.matmul import cuda as cuda_host
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.emulator import report

STEPS = [
    pytest.param(
        name, marks=pytest.mark.skipif(not emulator.available(), reason="emulation needs g++")
    )
    for name in matmul.cuda_steps()
]
implementations = pytest.mark.parametrize("name", ["cpu", "cpu_blocked", *STEPS])
steps = pytest.mark.parametrize("name", STEPS)
VIEWS = {
    "transposed": lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
    "every second": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "reversed": lambda x: np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :],
    "heads": lambda x: np.ascontiguousarray(x.swapaxes(-2, -3)).swapaxes(-2, -3),
    "unaligned": lambda x: np.append(0.0, x)[1:].reshape(x.shape),
}


@pytest.mark.parametrize("view", list(VIEWS))
@implementations
def test_views(name, view):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 33, 70)), rng.normal(size=(3, 70, 17))
    got = matmul.implementation(name)(VIEWS[view](a), VIEWS[view](b))
    compare(matmul, name, [got], [a @ b])


@implementations
def test_an_expanded_matrix(name):
    rng = np.random.default_rng(0)
    a, b = np.broadcast_to(rng.normal(size=(1, 40)), (30, 40)), rng.normal(size=(40, 50))
    compare(matmul, name, [matmul.implementation(name)(a, b)], [a.copy() @ b])


def test_a_stack_by_one_matrix_is_one_product(monkeypatch):
    shapes = []
    product = np.matmul
    monkeypatch.setattr(
        np, "matmul", lambda a, b, **to: shapes.append(a.shape) or product(a, b, **to)
    )
    a = np.ones((2, 5, 3, 8)).transpose(0, 2, 1, 3)  # strided: heads seen before time
    assert cpu.matmul(a, np.ones((8, 4))).shape == (2, 3, 5, 4)
    assert shapes == [(30, 8)]


@implementations
def test_nothing_to_sum_is_zero(name):
    product = matmul.implementation(name)(np.ones((3, 0)), np.ones((0, 2)))
    assert product.shape == (3, 2)
    assert not product.any()


@pytest.mark.parametrize(
    "lead",
    [
        ((0,), (0,)),
        ((4, 1, 2, 3), (1, 2, 1, 3)),  # more dimensions than the kernels know
        ((2, 1, 2, 1, 2), ()),
        ((2,), (3, 1)),
        ((2, 0, 1, 1, 1), (1, 1, 1, 1, 3)),
    ],
)
@steps
def test_leading_dimensions(name, lead):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(*lead[0], 5, 4)), rng.normal(size=(*lead[1], 4, 3))
    compare(matmul, name, [matmul.implementation(name)(a, b)], [a @ b])


@pytest.mark.parametrize("blocks", [1, 3])
@steps
def test_more_matrices_than_a_grid_has_blocks(name, blocks, monkeypatch):
    monkeypatch.setattr(cuda_host, "MOST_BLOCKS", (1, 1, blocks))
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 9, 12)), rng.normal(size=(7, 12, 65))
    compare(matmul, name, [matmul.implementation(name)(a, b)], [a @ b])


@pytest.mark.parametrize("transpose", ["", "a", "b"])
@steps
def test_what_is_not_finite_stays_in_its_row_and_column(name, transpose):
    """Zeros that fill up a tile meet it: 0 inf is NaN."""
    a, b = matmul.drawn("float32", a=(70, 13), b=(13, 70))
    clean = matmul.implementation(name)(a, b)
    a[68, 12], b[2, 3] = np.inf, np.nan
    a, b = (VIEWS["transposed"](x) if t in transpose else x for t, x in (("a", a), ("b", b)))
    got = matmul.implementation(name)(a, b)
    assert not np.isfinite(got[68]).any()
    assert np.isnan(got[:, 3]).all()
    here = np.ix_(np.arange(70) != 68, np.arange(70) != 3)
    np.testing.assert_array_equal(got[here], clean[here])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((2, 3), "f4"), np.ones((4, 2), "f4"), r"b \(4, 2\) must be .* K=3"),
        (np.ones((2, 3), "f4"), np.ones((3, 2)), "b takes float32, not float64"),
        (np.ones((2, 3), "i8"), np.ones((3, 2), "i8"), "no int64"),
    ],
)
@steps
def test_bad_input_is_refused(name, a, b, message):
    with pytest.raises(UserError, match=message):
        matmul.implementation(name)(a, b)


@steps
def test_structs_are_as_large_as_the_kernels_think(name):
    assert ctypes.sizeof(cuda_host.MatrixStrides) == 5 * 8
    assert ctypes.sizeof(cuda_host.Batch) == 3 * 4


def traffic(name, a, b):
    """Totals of a launch by what they are: "global load", ..."""
    with emulator.profiled() as log:
        matmul.implementation(name)(a, b)
    (rows,) = report.rows(log).values()
    return {row.what: row for row in report.totals(rows)}


@pytest.mark.skipif(not emulator.available(), reason="emulation needs g++")
def test_each_step_moves_less():
    """The figures in the headers of the .cu files, for row-major matrices of 64 x 64."""
    a, b = matmul.drawn("float32", a=(64, 64), b=(64, 64))
    naive, coalesced, tiled = (traffic(n, a, b) for n in ("v1_naive", "v2_coalesced", "v3_tiled"))
    pairs = 64 * 64 * 64 / 32  # multiply-adds of a warp
    assert naive["global load"].units == (32 + 1) * pairs
    assert naive["global store"].units == 32 * 64 * 64 / 32
    assert coalesced["global load"].units == (1 + 4) * pairs
    assert coalesced["global store"].units == 4 * 64 * 64 / 32
    assert tiled["global load"].threads == pairs  # 1 for 32 multiply-adds
    assert tiled["shared load"].threads == 64 * 64 * 64 / 4


@pytest.mark.parametrize("transpose", ["", "a", "b", "ab"])
@pytest.mark.skipif(not emulator.available(), reason="emulation needs g++")
def test_tiles_waste_no_sector_and_no_bank(transpose):
    a, b = matmul.drawn("float32", a=(64, 64), b=(64, 64), transpose=transpose)
    moved = traffic("v3_tiled", a, b)
    for what in ("global load", "shared load", "shared store"):
        assert moved[what].units == moved[what].best, what
