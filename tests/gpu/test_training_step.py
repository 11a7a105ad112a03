"""A whole training step on the GPU equals the CPU's: loss, every gradient, every new parameter."""

import numpy as np
import pytest

import minillm
from minillm import kernels
from minillm.device import to_device
from minillm.kernels.tolerances import tolerance
from minillm.models.gpt import GPT, GPTConfig
from minillm.optim import AdamW

VARIANTS = {
    "gpt2": dict(norm="layer_norm", activation="gelu", position="learned", bias=True),
    "llama": dict(norm="rms_norm", activation="swiglu", position="rotary", bias=False),
}


def step(variant, device, implementation, dropout=0.1):
    """Loss, gradients and new parameters, on the host."""
    minillm.manual_seed(3)
    config = GPTConfig(
        vocab_size=97, block_size=33, n_layer=2, n_head=4, n_embd=64, dropout=dropout,
        **VARIANTS[variant],
    )  # fmt: skip
    model = GPT(config).to(device)
    rng = np.random.default_rng(0)
    ids, targets = (to_device(rng.integers(0, 97, (4, 33)), device) for _ in range(2))
    optimizer = AdamW(model.parameters(), 1e-3)
    with kernels.use(implementation):
        _, loss = model(ids, targets)
        loss.backward()
        grads = {n: to_device(p.grad.data, "cpu").copy() for n, p in model.named_parameters()}
        optimizer.step()
    new = {n: to_device(p.data, "cpu") for n, p in model.named_parameters()}
    return float(loss.data), grads, new


@pytest.mark.parametrize("implementation", ["cuda", "v1_naive", "numba_gpu", "reference"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_cpus(poisoned, variant, implementation):
    loss, grads, new = step(variant, "cuda", implementation)
    want_loss, want_grads, want_new = step(variant, "cpu", "cpu")
    assert loss == pytest.approx(want_loss, rel=1e-5)
    tol = tolerance("attention_backward", "float32")  # the widest that a step passes through
    for name, want in want_grads.items():
        scale = max(np.abs(want).max(), 1e-6)
        np.testing.assert_allclose(grads[name], want, 10 * tol.rtol, 10 * tol.atol * scale, name)
    for name, want in want_new.items():  # an update is at most the learning rate in each element
        np.testing.assert_allclose(new[name], want, 1e-4, 2e-4, name)
