"""A grid of ranks on arrays of a GPU (the stand-in of tests/fake_cupy)."""

import copy

import numpy as np
import pytest

from minillm import kernels
from minillm.device import device_of, module
from minillm.distributed import run_threads
from minillm.parallel import Grid, split_model, whole
from tests import fake_cupy
from tests.parallel.training import MODELS, batch, build


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradients_are_those_of_one_rank_on_the_cpu(name):
    model = build(MODELS[name])
    ids, targets = batch(model.config, 0)
    alone = copy.deepcopy(model)
    loss = alone(ids, targets, reduction="sum")[1]
    loss.backward()

    def work(comm):
        xp, grid = module("cuda"), Grid(comm, 1, 2, 2)
        pipe = split_model(copy.deepcopy(model).to("cuda"), grid)
        for kind, i in pipe.schedule(2):
            if kind == "forward":
                rows = slice(5 * i, 5 * i + 5)
                pipe.forward(i, xp.asarray(ids[rows]), xp.asarray(targets[rows]), 1.0)
            else:
                pipe.backward(i)
        pipe.sum_late()
        grads = {name: p.grad.data for name, p in pipe.model.named_parameters()}
        assert all(device_of(grad) == "cuda" for grad in grads.values())
        return pipe.losses(), whole(grid, pipe, grads)

    with fake_cupy.installed(), kernels.use("reference"):
        results = run_threads(4, work)
    np.testing.assert_allclose([r[0] for r in results], loss.item(), rtol=1e-12)
    for path, p in alone.named_parameters():
        size = np.abs(p.grad.data).max()
        np.testing.assert_allclose(results[0][1][path], p.grad.data, rtol=0, atol=1e-10 * size)
