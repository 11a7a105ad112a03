"""GPT: configuration, initial weights, gradients, learning, cache."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import minillm.random
from minillm.autograd import no_grad
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.models import GPT, GPTConfig
from minillm.optim import AdamW, clip_grad_norm, param_groups
from minillm.tensor import Tensor

TINY = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=4, n_embd=16)
CONFIGS = {
    "gpt2": TINY,
    "no bias": replace(TINY, bias=False, tie_embeddings=False),
    "llama": replace(
        TINY,
        n_kv_head=2,
        bias=False,
        position="rotary",
        norm="rms_norm",
        activation="swiglu",
        tie_embeddings=False,
    ),
    "multi-query": replace(TINY, n_kv_head=1, activation="swiglu"),
    "rotary": replace(TINY, position="rotary", norm="rms_norm"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
RNG = np.random.default_rng(0)


def _model(config, seed=0):
    minillm.random.manual_seed(seed)
    return GPT(config)


def _batch(config, B=3):
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (B, config.block_size + 1))
    return ids[:, :-1], ids[:, 1:]


def test_defaults_are_gpt2_small():
    config = GPTConfig()
    # By hand: 50257 x 768 + 1024 x 768 + 12 blocks of 12 C^2 weights and 13 C biases, + 2 C.
    C = 768
    small = replace(config, vocab_size=7, block_size=5, n_layer=1)
    count = GPT(small).num_parameters() - (7 + 5) * C - 2 * C
    assert count == 12 * C * C + 13 * C
    assert 12 * count + (50257 + 1024) * C + 2 * C == 124_439_808


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_embd=100, n_head=3), "n_embd 100 is not divisible by n_head 3: set n_embd to 99"),
        (dict(n_embd=2, n_head=6), "n_embd 2 is not divisible by n_head 6: set n_embd to 6"),
        (dict(n_kv_head=3), "n_head 4 is not divisible by n_kv_head 3"),
        (dict(n_embd=12, position="rotary"), "is odd: set n_embd to a multiple of 8"),
        (dict(n_layer=0), "n_layer is 0: it must be at least 1"),
        (dict(vocab_size=-5), "vocab_size is -5"),
        (dict(hidden_size=0), "hidden_size is 0"),
        (dict(n_kv_head=0), "n_kv_head is 0"),
        (dict(dropout=1.0), "dropout is 1.0"),
        (dict(norm="batch"), "norm is 'batch': choose layer_norm or rms_norm"),
        (dict(norm_eps=0), "norm_eps is 0"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    with pytest.raises(UserError) as error:
        replace(TINY, **change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_width_of_the_mlp():
    assert replace(TINY, n_embd=64).mlp_size == 256
    assert replace(TINY, n_embd=64, activation="swiglu").mlp_size == 192  # 8 C / 3 = 170.7
    assert replace(TINY, n_embd=96, activation="swiglu").mlp_size == 256  # 8 C / 3 exactly
    assert replace(TINY, hidden_size=50).mlp_size == 50


def test_initial_weights_are_those_of_gpt2():
    model = _model(replace(TINY, vocab_size=500, n_embd=128, n_layer=3))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.data.any(), name
        elif p.ndim == 1:
            assert (p.data == 1).all(), name
        else:
            std = 0.02 / 6**0.5 if name.endswith("proj.weight") else 0.02
            assert p.data.std() == pytest.approx(std, rel=0.1), name
            assert p.data.mean() == pytest.approx(0, abs=std / 10), name


def test_an_untrained_model_knows_nothing():
    model = _model(TINY)
    _, loss = model(*_batch(TINY))
    assert loss.item() == pytest.approx(np.log(TINY.vocab_size), abs=0.1)


def test_tied_and_untied_output():
    tied = dict(_model(TINY).named_parameters())
    assert not any("lm_head" in name for name in tied)
    untied = dict(_model(CONFIGS["no bias"]).named_parameters())
    assert untied["lm_head.weight"].shape == (11, 16)


def test_reductions_and_ignored_targets():
    model = _model(TINY)
    ids, targets = _batch(TINY)
    targets = targets.copy()
    targets[0, 3:] = -100
    logits, none = model(ids, targets, reduction="none")
    assert logits.shape == (3, 8, 11)
    losses = none.data.reshape(targets.shape)
    assert not losses[0, 3:].any()
    total = model(ids, targets, reduction="sum")[1].item()
    assert total == pytest.approx(losses.sum(), rel=1e-6)
    assert model(ids, targets)[1].item() == pytest.approx(total / 19, rel=1e-6)
    assert model(Tensor(ids), Tensor(targets))[1].item() == pytest.approx(total / 19, rel=1e-6)


def test_bad_input_is_refused():
    model = _model(TINY)
    with pytest.raises(UserError, match="9 tokens are longer than block_size 8"):
        model(np.zeros((1, 9), np.int64))
    with pytest.raises(UserError, match=r"\(4,\)"):
        model(np.zeros(4, np.int64))
    with pytest.raises(UserError, match="11"):
        model(np.full((1, 2), 11))
    with pytest.raises(UserError, match=r"targets \(3, 2\) must have the shape of ids, \(2, 3\)"):
        model(np.zeros((2, 3), np.int64), np.zeros((3, 2), np.int64))


@every_config
def test_gradients_of_the_whole_model(config):
    model = _model(config).to("float64")
    modules = dict(model.named_modules())
    paths = [name.rpartition(".") for name, _ in model.named_parameters()]
    # Away from the start, where all is nearly symmetric and many gradients vanish.
    values = [p.data + RNG.normal(0, 0.2, p.shape) for p in model.parameters()]

    def loss(*tensors):
        for (path, _, name), tensor in zip(paths, tensors):
            setattr(modules[path], name, tensor)
        return model(*_batch(config))[1]

    gradcheck(loss, *values, name="GPT")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_overfits_one_batch(name):
    config = replace(CONFIGS[name], n_embd=32)
    # No token comes twice in a row of ids: without absolute positions, "5" and "5 5" look alike.
    ids = np.stack([np.random.default_rng(i).permutation(9) for i in range(3)])
    model = _model(config)
    optimizer = AdamW(param_groups(model, 0.0), lr=1e-2)
    for _ in range(150):
        _, loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        _, factor = clip_grad_norm(optimizer.groups, 1.0)
        optimizer.step(grad_scale=factor)
    assert loss.item() < 0.02


@every_config
@pytest.mark.parametrize("pieces", [[8], [1] * 8, [3, 1, 4]])
def test_cached_logits_equal_uncached(config, pieces):
    model = _model(config).to("float64").eval()
    ids, targets = _batch(config, B=2)
    with no_grad():
        whole, want = model(ids, targets)
        cache, start, losses = model.new_cache(2), 0, 0.0
        for n in pieces:
            part = ids[:, start : start + n]
            start += n
            logits, _ = model(part, cache=cache)
            assert logits.shape == (2, 1, config.vocab_size)
            np.testing.assert_allclose(logits.data[:, 0], whole.data[:, start - 1], rtol=1e-9)
        with pytest.raises(UserError, match="9 tokens are longer"):
            model(ids[:, :1], cache=cache)
        cache, start = model.new_cache(2), 0
        for n in pieces:
            at = slice(start, start + n)
            losses += model(ids[:, at], targets[:, at], cache, reduction="sum")[1].item()
            start += n
    assert losses / targets.size == pytest.approx(want.item(), rel=1e-12)


def test_dropout_acts_in_training_only():
    model = _model(replace(TINY, dropout=0.5))
    ids, _ = _batch(TINY)
    assert (model(ids)[0].data != model(ids)[0].data).any()
    model.eval()
    np.testing.assert_array_equal(model(ids)[0].data, model(ids)[0].data)


def test_flops_per_token_by_hand():
    C, V, T, L = 16, 11, 8, 2
    products = L * 12 * C * C + V * C
    others = L * 13 * C + 2 * C  # biases and norms, which the rule of thumb counts along
    want = 6 * (products + others) + 12 * L * C * T
    assert _model(TINY).flops_per_token() == want
    untied = _model(replace(TINY, tie_embeddings=False))
    assert untied.flops_per_token() == want  # the looked-up table takes no part


def test_prints_as_a_tree():
    text = repr(_model(TINY))
    assert "(0-1): 2 x Block(" in text
    assert "n_head=4, n_kv_head=4, head_size=4" in text


@every_config
def test_without_logits_the_loss_and_the_gradients_are_the_same(config):
    found = []
    for keep_logits in (True, False):
        model = _model(config)
        logits, loss = model(*_batch(config), keep_logits=keep_logits)
        assert (logits is not None) == keep_logits
        loss.backward()
        found.append([loss.data, *(p.grad.data for p in model.parameters())])
    for kept, lost in zip(*found):
        np.testing.assert_array_equal(kept, lost)


def test_without_logits_a_step_peaks_one_array_of_logits_lower():
    config = replace(TINY, vocab_size=3000, block_size=64)
    ids, targets = _batch(config, B=8)
    size = ids.size * config.vocab_size * 4
    peaks = []
    for keep_logits in (True, False):
        model = _model(config)
        for _ in range(2):  # the first compiles, and makes the gradients' arrays
            tracemalloc.start()
            model(ids, targets, keep_logits=keep_logits)[1].backward()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert 0.95 * size < peaks[1] - peaks[3] < 1.05 * size
