"""Generation: same tokens with and without the cache, the draws, and what is refused."""

from dataclasses import replace
from itertools import islice

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import minillm.random
from minillm.errors import UserError
from minillm.models import GPT, GPTConfig
from minillm.models.generate import generate, sample

CONFIG = GPTConfig(block_size=8, vocab_size=13, n_layer=2, n_head=2, n_embd=16, dropout=0.3)
LLAMA = replace(
    CONFIG, n_kv_head=1, position="rotary", norm="rms_norm", activation="swiglu", bias=False
)


def _model(config=CONFIG):
    minillm.random.manual_seed(2)
    model = GPT(config)
    for p in model.parameters():
        p.data *= 8  # an untrained model is nearly uniform: every error would look alike
    return model


@pytest.mark.parametrize("config", [CONFIG, LLAMA, replace(CONFIG, block_size=1)])
@pytest.mark.parametrize("options", [dict(temperature=0), dict(), dict(top_k=4, top_p=0.9)])
def test_cached_and_uncached_draw_the_same_tokens_far_beyond_the_context(config, options):
    model = _model(config)
    cached = list(generate(model, [1, 2, 3], 30, seed=5, **options))
    uncached = list(generate(model, [1, 2, 3], 30, seed=5, use_cache=False, **options))
    assert cached == uncached
    assert len(cached) == 30


def test_the_first_token_is_the_models_own_prediction():
    model = _model().eval()
    logits, _ = model(np.array([[4, 5]]))
    assert next(generate(model, [4, 5], 1, temperature=0)) == logits.data[0, -1].argmax()


def test_of_a_long_prompt_the_last_block_counts():
    model = _model()
    prompt = np.arange(40) % 13
    assert list(generate(model, prompt, 5, seed=1)) == list(generate(model, prompt[-8:], 5, seed=1))


def test_seeds_decide_the_draws():
    model = _model()
    draws = [tuple(generate(model, [1], 12, seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    minillm.random.manual_seed(9)
    first = list(generate(model, [1], 12))
    minillm.random.manual_seed(9)
    assert list(generate(model, [1], 12)) == first


def test_streams_and_leaves_the_mode_as_it_was():
    model = _model()
    stream = generate(model, [1], 10**9, seed=0)
    assert len(list(islice(stream, 3))) == 3
    assert model.training
    model.eval()
    next(stream)
    assert not model.training


def test_stops_after_the_stop_token():
    model = _model()
    free = list(generate(model, [1], 20, temperature=0))
    stopped = list(generate(model, [1], 20, temperature=0, stop_token=free[3]))
    assert stopped == free[: free.index(free[3]) + 1]
    assert list(generate(model, [1], 0)) == []


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "at least one token"),
        ([0.5], {}, "at least one token"),
        ([[1]], {}, "at least one token"),
        ([13], {}, "the model knows 0 to 12"),
        ([-1], {}, "the model knows 0 to 12"),
        ([1], dict(max_new_tokens=-1), "max_new_tokens is -1"),
        ([1], dict(temperature=-1), "temperature is -1"),
        ([1], dict(temperature=float("nan")), "temperature is nan"),
        ([1], dict(top_k=0), "top_k is 0"),
        ([1], dict(top_p=0), "top_p is 0"),
        ([1], dict(top_p=1.5), "top_p is 1.5"),
    ],
)
def test_bad_arguments_are_refused_at_once(prompt, options, message):
    with pytest.raises(UserError, match=message):
        generate(_model(), prompt, **{"max_new_tokens": 3, **options})


logits = st.lists(st.floats(-5, 5), min_size=1, max_size=8).map(np.array)


@given(logits, st.floats(0.1, 3), st.none() | st.integers(1, 9), st.none() | st.floats(0.05, 1))
def test_draws_follow_the_restricted_distribution(x, temperature, top_k, top_p):
    """The draw inverts the cumulative distribution: walk evenly over [0, 1) and count."""

    class Even:
        def __init__(self, n):
            self.left = iter((np.arange(n) + 0.5) / n)

        def random(self):
            return next(self.left)

    n = 2000
    even = Even(n)
    got = np.bincount([sample(x, even, temperature, top_k, top_p) for _ in range(n)])
    p = np.exp((x - x.max()) / temperature)
    order = np.argsort(-p, kind="stable")
    p /= p[order[:top_k]].sum()
    keep, mass = [], 0.0
    for token in order[:top_k]:
        keep.append(token)
        mass += p[token]
        if top_p is not None and mass >= top_p:
            break
    want = np.zeros(len(x))
    want[keep] = p[keep] / mass
    np.testing.assert_allclose(np.pad(got, (0, len(x) - len(got))) / n, want, atol=2 / n)


def test_temperature_sharpens():
    x = np.array([1.0, 0.0])
    rng = np.random.default_rng(0)
    cold = sum(sample(x, rng, 0.1) for _ in range(200))
    hot = sum(sample(x, rng, 10.0) for _ in range(200))
    assert cold < 5
    assert 70 < hot < 130
    assert sample(x, rng, 1e-300) == 0  # scaled logits overflow to -inf, not to NaN
