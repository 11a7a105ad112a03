"""A whole GPT on emulated GPU kernels: loss, gradients and a step of AdamW as on the CPU's.

The kernels are tested one by one elsewhere; here they get what a model gives them: transposed
weights, heads that are views, a batch of positions that broadcasts, masks of dropout.
"""

from dataclasses import replace

import numpy as np
import pytest

import minillm.random
from minillm import kernels
from minillm.kernels.registry import declared
from minillm.kernels.runtime import emulator
from minillm.models import GPT, GPTConfig
from minillm.optim import AdamW, param_groups

pytestmark = pytest.mark.skipif(not emulator.available(), reason="emulation needs g++")

GPT2 = GPTConfig(block_size=12, vocab_size=37, n_layer=2, n_head=4, n_embd=20, dropout=0.2)
LLAMA = replace(
    GPT2, n_embd=24, n_kv_head=2, bias=False, position="rotary", norm="rms_norm",
    activation="swiglu", tie_embeddings=False,
)  # fmt: skip
# float32: a loss near log V, gradients of sums over B T terms through 2 layers.
LOSS, GRADIENT = 2e-6, 2e-5


def step(config, choice):
    """Loss, gradients and the parameters after a step of AdamW, under a choice of kernels."""
    minillm.random.manual_seed(0)
    model = GPT(config)
    rng = np.random.default_rng(0)
    for p in model.parameters():  # far from the start, where much is nearly symmetric
        p.data += rng.normal(0, 0.1, p.shape).astype(p.data.dtype)
    optimizer = AdamW(param_groups(model, 0.1), lr=1e-2)
    ids = rng.integers(0, config.vocab_size, (3, config.block_size + 1))
    targets = ids[:, 1:].copy()
    targets[1, 4:] = -100
    with kernels.use(choice):
        loss = model(ids[:, :-1], targets)[1]
        loss.backward()
        gradients = {name: p.grad.data.copy() for name, p in model.named_parameters()}
        optimizer.step()
    return loss.item(), gradients, {name: p.data for name, p in model.named_parameters()}


def compare(config, choice):
    want_loss, want, want_after = step(config, "cpu")
    loss, got, after = step(config, choice)
    assert loss == pytest.approx(want_loss, rel=LOSS)
    for name, gradient in want.items():
        scale = np.abs(gradient).max()
        assert scale > 0, name
        np.testing.assert_allclose(
            got[name], gradient, rtol=GRADIENT, atol=GRADIENT * scale, err_msg=name
        )
        # A first step is lr g / (|g| + eps): of full size wherever g is, whatever its size.
        sure = np.abs(gradient) > 100 * GRADIENT * scale
        np.testing.assert_allclose(
            after[name][sure], want_after[name][sure], rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("choice", ["cuda", "v1_naive", "numba_gpu"])
@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_as_on_the_cpu(config, choice):
    compare(config, choice)


@pytest.mark.parametrize("choice", ["cuda", "v1_naive", "numba_gpu"])
def test_no_kernel_falls_back(choice):
    for kernel in declared().values():
        kernel.implementation(choice)  # or UserError
