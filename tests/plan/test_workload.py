"""Counts of parameters and operations against the model itself."""

import dataclasses

import numpy as np
import pytest

from minillm.autocast import autocast
from minillm.errors import UserError
from minillm.models.gpt import GPT
from minillm.plan import Model
from tests.plan.models import GPT2, SMALL

VARIANTS = [
    {},
    dict(bias=False),
    dict(tie_embeddings=False),
    dict(position="rotary", norm="rms_norm", activation="swiglu", bias=False, n_kv_head=2),
    dict(activation="swiglu", norm="rms_norm"),
    dict(hidden_size=100, n_embd=96, vocab_size=131),
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_parameters_are_those_of_the_model(changes):
    config = dataclasses.replace(SMALL, **changes)
    assert Model(config).parameters == GPT(config).num_parameters()


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_operations_are_those_of_the_model_but_for_norms_and_biases(changes):
    config = dataclasses.replace(SMALL, **changes)
    model = Model(config)
    flops = 3 * (model.layer(2).flops * config.n_layer + model.head(2).flops) / 2
    want = GPT(config).flops_per_token() * config.block_size
    assert flops == pytest.approx(want, rel=0.02) and flops <= want


def test_the_residual_stream_of_ours_is_float32():
    """What stages send, and a product that enters the stream: as autocast leaves them."""
    config = dataclasses.replace(SMALL, n_layer=1)
    net, seen = GPT(config).to("float32"), []
    for module in (net.blocks[0].mlp.proj, net.blocks[0]):
        module.register_forward_hook(lambda module, args, y: seen.append(y.data.nbytes))
    with autocast("bfloat16"):
        net(np.zeros((3, config.block_size), np.int64))
    model = Model(config, "bfloat16")
    assert [model.terms(3), model.boundary(3)] == seen


def test_stages_and_ranks_have_all_parameters_between_them():
    model = Model(dataclasses.replace(GPT2, tie_embeddings=False, bias=False))
    whole = model.stage_parameters(12, True, True)
    stages = [model.stage_parameters(4, i == 0, i == 2) for i in range(3)]
    assert sum(stages) == whole
    split = 4 * model.stage_parameters(12, True, True, tp=4)
    shared = whole - 12 * (4 * 768**2 + 8 * 768**2) - 2 * 50257 * 768
    assert split == pytest.approx(whole + 3 * shared)  # norms and positions, on every rank


def test_activations_are_korthikantis():
    """34 T C bytes a block in half precision, of which 2 are dropout masks; 10 + 24 / t, where the
    masks are 2 of the 10."""
    model, TC = Model(GPT2, "mixed"), 1024 * 768
    assert model.activations(1) == 32 * TC
    assert model.activations(3, tp=4) == 3 * (8 + 24 / 4) * TC
    assert Model(GPT2, "float32").activations(1) == 2 * model.activations(1)
    # Ours has the residual stream, which two norms read, in float32.
    assert Model(GPT2, "bfloat16").activations(1) == (32 + 2 * 2) * TC


def test_a_precision_that_is_none():
    with pytest.raises(UserError, match="dtype 'int3': choose float32, bfloat16, mixed"):
        Model(GPT2, "int3")
