"""AdamW beside PyTorch's, and the sum of squares beside an exact sum."""

import math

import numpy as np
import pytest

from minillm.kernels.adamw import adamw
from minillm.kernels.instrument import compare
from minillm.kernels.reduce import sum_of_squares


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_matches_pytorch(weight_decay):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    param, scale = rng.normal(size=1000), 0.37
    m, v = np.zeros(1000), np.zeros(1000)
    tensor = torch.nn.Parameter(torch.tensor(param))
    settings = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)
    optimizer = torch.optim.AdamW([tensor], **settings)
    for step in range(1, 8):
        grad = rng.normal(size=1000)
        tensor.grad = torch.tensor(grad * scale)
        optimizer.step()
        adamw(param, grad, m, v, 1e-2, 0.9, 0.95, 1e-8, weight_decay, step, scale)
    compare(adamw, "cpu", [param], [tensor.detach().numpy()])


def test_sum_of_squares_is_accumulated_in_float64():
    x = np.random.default_rng(0).normal(size=100_003).astype(np.float32)
    x[0] = 1e4
    exact = math.fsum(float(value) ** 2 for value in x)
    assert abs(sum_of_squares(x) - exact) < 1e-12 * exact
    assert isinstance(sum_of_squares(x), float)
