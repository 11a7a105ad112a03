"""Every grid of ranks trains the single process's model."""

import copy
import math
import sys
from functools import cache

import numpy as np
import pytest

from minillm.distributed import Compressed, SingleProcess, codecs, run_threads
from minillm.distributed.sync import STRATEGIES
from minillm.optim import AdamW, clip_grad_norm, param_groups
from minillm.parallel import Grid, split_model, whole
from minillm.parallel.splits import split_of
from tests.parallel.training import MODELS, batch, build, run_step, share, train, train_alone
from tests.programs import mpirun

GRIDS = [
    ("gpt2", (1, 4, 1)), ("gpt2 deep", (1, 1, 4)), ("gpt2", (1, 2, 2)), ("gpt2", (2, 2, 1)),
    ("gpt2", (2, 1, 2)), ("gpt2", (1, 1, 2)), ("llama", (1, 4, 1)), ("llama deep", (1, 1, 4)),
    ("llama", (1, 2, 2)), ("llama", (2, 2, 1)), ("llama", (2, 1, 2)), ("three", (1, 3, 1)),
    ("three", (1, 1, 3)),
]  # fmt: skip


@pytest.fixture(scope="module")
def alone():
    """By name of a model: it before training, its parameters and losses after, in one process."""

    @cache
    def trained(name):
        model = build(MODELS[name])
        return model, *train_alone(model)

    return trained


@pytest.fixture(autouse=True)
def impatient_threads():
    """Ranks that are threads wait for one another thousands of times."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def close(got, wanted):
    """The same names in the same order, and values to 1e-10 of the largest of their parameter.

    Biases of queries and keys are measured by the largest of all parameters. A key's has no
    gradient in theory, since softmax does not see a shift; what there is of it is rounding errors,
    1e-17 where others have 1e-2, and AdamW divides them by its eps of 1e-8.
    """
    assert list(got) == list(wanted)
    largest = max(np.abs(array).max() for array in wanted.values())
    for name, array in wanted.items():
        size = largest if name.endswith("qkv.bias") else np.abs(array).max()
        worst = np.abs(got[name] - array).max()
        assert worst <= 1e-10 * size, (name, worst, size)


@pytest.mark.parametrize("name, axes", GRIDS, ids=str)
def test_twenty_steps(alone, name, axes):
    model, wanted, wanted_losses = alone(name)

    def work(comm):
        grid, pipe, _, losses = train(comm, model, axes)
        return whole(grid, pipe, pipe.model.state_dict()), losses

    results = run_threads(math.prod(axes), work)
    close(results[0][0], wanted)
    for params, losses in results:
        np.testing.assert_allclose(losses, wanted_losses, rtol=1e-10)
        assert params is None or params is results[0][0]


@pytest.mark.parametrize("axes", [(2, 2, 1), (2, 1, 2)], ids=str)
@pytest.mark.parametrize(
    "kind, codec",
    [("naive", "int8"), ("bucketed", "topk"), ("zero1", "int8"), ("local-sgd", "topk")],
)
def test_compression_leaves_shared_parameters_alike(alone, kind, codec, axes):
    """What a codec makes of a number depends on the rest of its array, which other ranks have not:
    norms of tensor-parallel ranks, and the ends of a tied table, went each their own way."""
    model, *_ = alone("gpt2")

    def work(comm):
        grid = Grid(comm, *axes)
        pipe = split_model(copy.deepcopy(model), grid)
        optimizer = AdamW(param_groups(pipe.model, 0.1, pipe.counted, pipe.shared), 1e-2)
        sums = Compressed(codecs.make(codec, ratio=0.1))
        together = dict(model=grid.model, late=pipe.late, sum_late=pipe.sum_late)
        sync = STRATEGIES[kind](grid.dp, optimizer, sums=sums, **together)
        for step in range(4):
            (ids, targets), rows = batch(model.config, step), slice(grid.dp.rank * 4, None, 2)
            scale = 1 / sync.divisor(targets[rows].size, targets.size)
            for kind_of, i in pipe.schedule(1):
                if kind_of == "forward":
                    pipe.forward(i, ids[rows], targets[rows], scale)
                else:
                    pipe.backward(i)
            sync.finish()
            pipe.losses()
            sync.step(clip_grad_norm(optimizer.groups, 1.0, sync.total)[1])
        sync.settle()
        parts = {}
        for name, p in pipe.model.named_parameters():
            parts[name, grid.tp.rank if split_of(name, model.config) else 0] = p.data.tobytes()
        return parts

    first = {}
    for parts in run_threads(math.prod(axes), work):
        for key, data in parts.items():
            assert first.setdefault(key, data) == data, key


def test_one_rank_is_the_model_itself(alone):
    """To the bit: the same micro-batches through the model's own forward."""
    model, *_ = alone("gpt2")
    comm = SingleProcess()
    grid, pipe, _, _ = train(comm, model, (1, 1, 1), steps=0)
    loss = run_step(grid, pipe, 0)
    direct, total = copy.deepcopy(model), 0.0
    ids, targets = batch(model.config, 0)
    for start, stop in share(comm):
        part = direct(ids[start:stop], targets[start:stop], reduction="sum", keep_logits=False)[1]
        part = part * (1 / (targets != -100).sum())
        part.backward()
        total += part.item()
    assert loss == total and comm.bytes_sent == 0
    for p, q in zip(pipe.model.parameters(), direct.parameters()):
        np.testing.assert_array_equal(p.grad.data, q.grad.data)


def test_ranks_of_mpirun(tmp_path, alone):
    """And, with a generator a process, that dropout is the same on ranks that share a layer."""
    model, wanted, _ = alone("gpt2")
    out = tmp_path / "params.npz"
    done = mpirun(4, "tests/parallel/scripts/train.py", out)
    assert done.returncode == 0, done.stderr
    close(dict(np.load(out)), wanted)
