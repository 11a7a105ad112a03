"""Checkpoints: from ranks to the whole model and back, on this grid or another one."""

import copy

import numpy as np
import pytest

from minillm import UserError
from minillm.distributed import SingleProcess, run_threads
from minillm.parallel import Grid, part, split_model, whole
from tests.parallel.training import MODELS, build

GRIDS = [(1, 4, 1), (1, 1, 4), (1, 2, 2), (2, 2, 1), (2, 1, 2)]


def arrays_of(model):
    """Weights and an optimiser's state: every number another one."""
    names = [(name, p.shape) for name, p in model.named_parameters()]
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype("float32") for name, shape in names}
    words = ("exp_avg", "exp_avg_sq")
    state = {f"{w}.{name}": rng.normal(size=shape) for w in words for name, shape in names}
    return weights, {"step": np.array([7]), **state}


@pytest.mark.parametrize("axes", GRIDS, ids=str)
@pytest.mark.parametrize("name", ["gpt2 deep", "llama deep"])
def test_there_and_back(name, axes):
    model = build(MODELS[name])
    every = arrays_of(model)

    def work(comm):
        grid = Grid(comm, *axes)
        pipe = split_model(copy.deepcopy(model), grid)
        own = dict(pipe.model.named_parameters())
        results = []
        for arrays in every:
            mine = part(pipe, arrays)
            for word in ("exp_avg.", "exp_avg_sq.") if "step" in arrays else ("",):
                for path, p in own.items():
                    array = mine[word + path]
                    assert array.shape == p.shape and array.dtype == arrays[word + path].dtype
            assert len(mine) == (2 * len(own) + 1 if "step" in arrays else len(own))
            results.append(whole(grid, pipe, mine))
        pipe.model.load_state_dict(part(pipe, every[0]))
        return results

    first, *others = run_threads(4, work)
    assert all(result is None for results in others for result in results)
    for result, arrays in zip(first, every):
        assert list(result) == list(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(result[key], array, strict=True)


def test_one_rank_s_arrays_are_the_whole_model_s():
    model = build(MODELS["gpt2"])
    grid = Grid(SingleProcess(), 0, 1, 1)
    pipe, arrays = split_model(model, grid), {"anything": np.zeros(1)}
    assert whole(grid, pipe, arrays) is arrays and part(pipe, arrays) is arrays


def test_arrays_of_another_model_are_refused():
    model = build(MODELS["gpt2"])

    def work(comm):
        pipe = split_model(copy.deepcopy(model), Grid(comm, 1, 2, 1))
        for key in ("blocks.9.mlp.up.weight", "exp_avg.nothing", "step.norm"):
            with pytest.raises(UserError, match=f"no parameter {key}"):
                part(pipe, {key: np.zeros(3)})
        with pytest.raises(UserError, match=r"norm.bias has shape \(3,\), the model's is \(16,\)"):
            part(pipe, {"exp_avg.norm.bias": np.zeros(3)})

    run_threads(2, work)
