"""Stages: the schedule, what is alive, what is sent, and what only the ends have."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm import no_grad
from minillm.distributed import all_reduce, run_threads
from minillm.optim import AdamW
from minillm.parallel import Grid, Pipeline, schedule, split_model
from tests.parallel.training import MODELS, batch, build, run_step


@given(st.integers(1, 6), st.integers(0, 9))
def test_every_micro_batch_goes_forward_then_backward_and_few_are_alive(stages, micro_batches):
    for stage in range(stages):
        order = schedule(stage, stages, micro_batches)
        assert len(order) == len(set(order)) == 2 * micro_batches
        alive = set()
        for kind, i in order:
            if kind == "forward":
                alive.add(i)
                assert len(alive) <= stages - stage
            else:
                alive.remove(i)  # fails unless its forward was before
        for kind in ("forward", "backward"):  # so that sends meet receives in order
            assert [i for k, i in order if k == kind] == list(range(micro_batches))


@given(st.integers(1, 6), st.integers(0, 9))
def test_it_ends_when_all_are_done_and_idles_no_longer_than_it_must(stages, micro_batches):
    """Forward and backward one unit each: 2 m + 2 (p - 1) units."""
    left = [schedule(stage, stages, micro_batches) for stage in range(stages)]
    done, clock = set(), 0
    while any(left):
        now = []
        for stage, order in enumerate(left):
            if order:
                kind, i = order[0]
                before = stage - 1 if kind == "forward" else stage + 1
                if not 0 <= before < stages or (kind, i, before) in done:
                    now.append((kind, i, stage))
        assert now, "deadlock"
        for kind, i, stage in now:
            left[stage].remove((kind, i))
        done.update(now)
        clock += 1
    assert clock == (2 * micro_batches + 2 * (stages - 1) if micro_batches else 0)


def test_one_stage_keeps_one_micro_batch_alive():
    assert schedule(0, 1, 2) == [("forward", 0), ("backward", 0), ("forward", 1), ("backward", 1)]


def test_activations_alive_and_bytes_sent():
    """Four stages, five micro-batches of 2, 2, 2, 2, 1: each stage holds at most 4 - stage."""
    model = build(MODELS["gpt2 deep"])

    def work(comm):
        grid = Grid(comm, 1, 1, 4)
        pipe = split_model(copy.deepcopy(model), grid)
        most, through = 0, Pipeline.forward

        def forward(self, *args):
            nonlocal most
            through(self, *args)
            most = max(most, len(self._alive))

        pipe.forward = forward.__get__(pipe)
        before = comm.bytes_sent
        run_step(grid, pipe, 0)
        assert not (pipe._alive or pipe._coming or pipe._leaving)
        return most, len(pipe.model.blocks), comm.bytes_sent - before

    results = run_threads(4, work)
    assert [r[0] for r in results] == [4, 3, 2, 1]
    assert sorted(r[1] for r in results) == [1, 1, 1, 2]
    activation = 6 * 16 * 8  # T C float64 of one sample
    table = model.token_embedding.weight.data.nbytes  # both ends send it, in halves or at once
    forward, back = 10 * activation, 9 * activation  # the last message is as long as the first
    middle = results[1][2] - forward - back
    assert 0 <= middle <= 64  # of the loss
    assert abs(results[0][2] - forward - table) <= 64


def test_names_are_those_of_the_whole_model():
    model = build(MODELS["gpt2 deep"])
    names = [name for name, _ in model.named_parameters()]

    def work(comm):
        pipe = split_model(copy.deepcopy(model), Grid(comm, 1, 1, 3))
        own = [name for name, _ in pipe.model.named_parameters()]
        late = [name for name, p in pipe.model.named_parameters() if any(p is q for q in pipe.late)]
        return own, late, [name for name in own if pipe.counted(name)]

    first, middle, last = run_threads(3, work)
    table = ["token_embedding.weight"]
    assert first[1] == last[1] == table and middle[1] == []
    assert first[0] + middle[0] + last[0][1:] == names and last[0][:1] == table
    assert first[2] + middle[2] + last[2] == names
    assert "blocks.3.attention.qkv.weight" in last[0] and "norm.bias" in last[0]


@pytest.mark.parametrize("name, axes", [("gpt2", (1, 2, 2)), ("llama", (1, 4, 1))], ids=str)
def test_what_is_counted_makes_the_norm_of_the_whole_gradient(name, axes):
    model = build(MODELS[name])
    alone = copy.deepcopy(model)
    ids, targets = batch(model.config, 0)
    (alone(ids, targets, reduction="sum")[1] * (1 / (targets != -100).sum())).backward()
    wanted = sum((p.grad.data**2).sum() for p in alone.parameters())

    def work(comm):
        grid = Grid(comm, *axes)
        pipe = split_model(copy.deepcopy(model), grid)
        run_step(grid, pipe, 0)
        named = pipe.model.named_parameters()
        squares = np.array([sum((p.grad.data**2).sum() for n, p in named if pipe.counted(n))])
        all_reduce(grid.model, squares)
        return squares.item()

    np.testing.assert_allclose(run_threads(4, work), wanted, rtol=1e-12)


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, 1, 4), (1, 2, 2), (1, 4, 1)], ids=str)
def test_evaluate(axes):
    model = build(MODELS["gpt2 deep"]).eval()
    batches = [[a[: 9 - step] for a in batch(model.config, step)] for step in range(3)]
    with no_grad():
        wanted = [model(x, y, reduction="sum")[1].item() for x, y in batches]

    def work(comm):
        grid = Grid(comm, *axes)
        pipe = split_model(copy.deepcopy(model), grid)
        run_step(grid, pipe, 0)  # messages of a step and of evaluation do not meet
        losses = [pipe.evaluate(x, y) for x, y in batches]
        run_step(grid, pipe, 0)
        return losses, grid.pp.rank == grid.pp.size - 1

    for losses, last in run_threads(axes[1] * axes[2], work):
        np.testing.assert_allclose(losses, wanted if last else [0.0] * 3, rtol=1e-12)


def test_a_step_without_micro_batches():
    """As a copy of the model that a small batch leaves with nothing: zeros, and no waiting."""
    model = build(MODELS["gpt2"])

    def work(comm):
        pipe = split_model(copy.deepcopy(model), Grid(comm, 1, 1, 2))
        assert pipe.schedule(0) == []
        pipe.sum_late()
        return pipe.losses(), [abs(p.grad.data).max() for p in pipe.late]

    assert run_threads(2, work) == [(0.0, [0.0])] * 2


def test_a_later_micro_batch_may_not_be_larger():
    model = build(MODELS["gpt2"])
    ids, targets = batch(model.config, 0)

    def work(comm):
        pipe = split_model(copy.deepcopy(model), Grid(comm, 1, 1, 2))
        pipe.schedule(2)
        pipe.forward(0, ids[:1], targets[:1], 1.0)
        with pytest.raises(ValueError, match="put the largest first"):
            pipe.forward(1, ids[:2], targets[:2], 1.0)

    run_threads(2, work)


def test_a_model_that_an_optimiser_holds_is_refused():
    model = build(MODELS["gpt2"])
    AdamW(model.parameters())

    def work(comm):
        with pytest.raises(RuntimeError, match="before the optimiser is made"):
            split_model(model, Grid(comm, 1, 1, 2))

    run_threads(2, work)
