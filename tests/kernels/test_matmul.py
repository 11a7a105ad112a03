"""The matrix product beside the generic test: views, and batches made one product."""

import numpy as np
import pytest

from minillm.kernels.instrument import compare
from minillm.kernels.matmul import cpu, cpu_blocked, matmul

IMPLEMENTATIONS = [cpu, cpu_blocked]
VIEWS = {
    "transposed": lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
    "every second": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "reversed": lambda x: np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :],
}


@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("module", IMPLEMENTATIONS, ids=lambda m: m.__name__.split(".")[-1])
def test_views(module, view):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 33, 70)), rng.normal(size=(3, 70, 17))
    got = module.matmul(VIEWS[view](a), VIEWS[view](b))
    compare(matmul, module.__name__, [got], [a @ b])


@pytest.mark.parametrize("module", IMPLEMENTATIONS, ids=lambda m: m.__name__.split(".")[-1])
def test_an_expanded_matrix(module):
    rng = np.random.default_rng(0)
    a, b = np.broadcast_to(rng.normal(size=(1, 40)), (30, 40)), rng.normal(size=(40, 50))
    compare(matmul, module.__name__, [module.matmul(a, b)], [a.copy() @ b])


def test_a_stack_by_one_matrix_is_one_product(monkeypatch):
    shapes = []
    product = np.matmul
    monkeypatch.setattr(
        np, "matmul", lambda a, b, **to: shapes.append(a.shape) or product(a, b, **to)
    )
    a = np.ones((2, 5, 3, 8)).transpose(0, 2, 1, 3)  # strided: heads seen before time
    assert cpu.matmul(a, np.ones((8, 4))).shape == (2, 3, 5, 4)
    assert shapes == [(30, 8)]


def test_nothing_to_sum_is_zero():
    for module in IMPLEMENTATIONS:
        assert not module.matmul(np.ones((3, 0)), np.ones((0, 2))).any()
