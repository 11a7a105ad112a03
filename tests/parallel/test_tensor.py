"""Tensor parallelism: the two ops, what every rank has whole, mixed precision."""

import copy

import numpy as np
import pytest

from minillm import Tensor, autocast, gradcheck
from minillm.distributed import all_gather, run_threads
from minillm.models.gpt import GPTConfig
from minillm.nn import Parameter
from minillm.parallel import Grid, split_model
from minillm.parallel.splits import split_of
from minillm.parallel.tensor import CopyToRanks, RowParallelLinear, SumOverRanks
from minillm.tensor import apply
from tests.parallel.training import MODELS, batch, build, run_step


def test_copy_and_sum_are_each_other_s_adjoint():
    """<sum_r x_r, dy> = sum_r <x_r, dy>: each op's backward is the other's forward."""

    def work(comm):
        x = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]).T * (comm.rank + 1), requires_grad=True)
        y = apply(SumOverRanks, x, comm=comm)
        y.backward(np.ones((2, 2)))
        z = Tensor(np.ones(3), requires_grad=True)
        apply(CopyToRanks, z, comm=comm).backward(np.arange(3.0) * (comm.rank + 1))
        return y.data, x.grad.data, z.grad.data, x.data

    for rank, (y, dx, dz, x) in enumerate(run_threads(3, work)):
        np.testing.assert_array_equal(y, [[6, 18], [12, 24]])
        np.testing.assert_array_equal(dx, np.ones((2, 2)))
        np.testing.assert_array_equal(dz, [0, 6, 12])
        assert x[0, 0] == rank + 1  # the input is left alone


def test_row_parallel_linear_adds_its_bias_once(rng):
    x, weight, bias = rng.normal(size=(4, 5)), rng.normal(size=(3, 5)), rng.normal(size=3)

    def work(comm):
        part = slice(comm.rank * 5 // comm.size, (comm.rank + 1) * 5 // comm.size)

        def layer(x, weight, bias):
            row = RowParallelLinear(weight[:, part], bias, comm)
            return row(apply(CopyToRanks, x, comm=comm)[:, part])

        y = layer(Tensor(x), Tensor(weight), Tensor(bias))
        np.testing.assert_allclose(y.data, x @ weight.T + bias)
        gradcheck(lambda x, bias: layer(x, Tensor(weight), bias), x, bias)
        return repr(RowParallelLinear(Parameter(weight), None, comm))

    assert run_threads(2, work)[0] == "RowParallelLinear(5 a rank, 3, bias=False)"


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradients_of_what_every_rank_has_are_the_same_bits(name):
    """In float32, where sums in another order would show; and they are the whole ones."""
    model = build(MODELS[name], "float32")
    whole = copy.deepcopy(model)
    ids, targets = batch(model.config, 0)
    (whole(ids, targets, reduction="sum")[1] * (1 / (targets != -100).sum())).backward()
    wanted = {path: p.grad.data for path, p in whole.named_parameters()}

    def work(comm):
        grid = Grid(comm, 1, 4, 1)
        pipe = split_model(copy.deepcopy(model), grid)
        run_step(grid, pipe, 0)
        shared = {
            path: p.grad.data
            for path, p in pipe.model.named_parameters()
            if split_of(path, model.config) is None
        }
        flat = np.concatenate([grad.reshape(-1) for grad in shared.values()])
        everyone = np.zeros((comm.size, flat.size), np.float32)
        everyone[comm.rank] = flat
        all_gather(comm, everyone.reshape(-1))  # a chunk is a row
        return shared, everyone

    for shared, everyone in run_threads(4, work):
        assert len(shared) >= 5
        assert (everyone == everyone[0]).all()
        for path, grad in shared.items():
            np.testing.assert_allclose(grad, wanted[path], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("axes", [(1, 2, 1), (1, 2, 2)], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_bfloat16(name, axes):
    """Losses and gradients under autocast: as one rank's, within the rounding of bfloat16."""
    model = build(MODELS[name], "float32")
    ids, targets = batch(model.config, 1)
    alone = copy.deepcopy(model)
    with autocast("bfloat16"):
        loss = alone(ids, targets, reduction="sum", keep_logits=False)[1] * 0.1
    loss.backward()
    wanted = {path: p.grad.data for path, p in alone.named_parameters()}

    def work(comm):
        grid = Grid(comm, *axes)
        pipe = split_model(copy.deepcopy(model), grid)
        with autocast("bfloat16"):
            for kind, i in pipe.schedule(1):
                if kind == "forward":
                    pipe.forward(i, ids, targets, 0.1)
        pipe.backward(0)
        pipe.sum_late()
        got = pipe.losses()
        assert abs(got - loss.item()) < 0.02 * loss.item()
        for path, p in pipe.model.named_parameters():
            assert p.grad.dtype == np.float32
            if split_of(path, model.config) is None:
                error = np.linalg.norm(p.grad.data - wanted[path])
                assert error < 0.05 * np.linalg.norm(wanted[path]), path
        return got

    losses = run_threads(axes[1] * axes[2], work)
    assert len(set(losses)) == 1


def test_a_rank_has_its_share_of_the_parameters():
    config = GPTConfig(block_size=4, vocab_size=40, n_layer=2, n_head=4, n_embd=8)
    model = build(config)

    def work(comm):
        mine = copy.deepcopy(model)
        split_model(mine, Grid(comm, 1, 4, 1))
        assert all(p.data.base is None for p in mine.parameters() if p.ndim == 2)
        return mine.num_parameters()

    shared = sum(
        p.data.size for path, p in model.named_parameters() if split_of(path, config) is None
    )
    assert run_threads(4, work) == [(model.num_parameters() - shared) // 4 + shared] * 4
