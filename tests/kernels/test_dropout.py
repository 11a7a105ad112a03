"""Dropout beside the generic test: the generator's published values, statistics, replay."""

import numpy as np
import pytest

from minillm.kernels.dropout import cpu, philox, reference

MODULES = pytest.mark.parametrize(
    "module", [cpu, reference], ids=lambda m: m.__name__.rpartition(".")[2]
)


def kept(module, n, p, key):
    return module.dropout(np.ones(n), p, key) != 0


def test_philox_known_answers():
    """kat_vectors of Random123, philox4x32-10: all zeros."""
    words = reference._bits(np, 4, 0)
    assert [f"{int(w):08x}" for w in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@MODULES
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_kept(module, p):
    n = 200_000
    share = kept(module, n, p, 123).mean()
    assert abs(share - (1 - p)) < 4 * (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize("other", [1, 1 << 32, 1 << 62], ids=["next", "high word", "top"])
def test_keys_are_uncorrelated(other):
    n, key = 200_000, 41
    one, two = (kept(cpu, n, 0.5, k) - 0.5 for k in (key, key + other))
    assert abs((one * two).mean()) < 4 * 0.25 / n**0.5


@pytest.mark.parametrize("lag", [1, 4, 1024])
def test_neighbours_are_uncorrelated(lag):
    n = 200_000
    x = kept(cpu, n, 0.5, 7) - 0.5
    assert abs((x[lag:] * x[:-lag]).mean()) < 4 * 0.25 / (n - lag) ** 0.5


@MODULES
def test_nothing_or_everything_dropped(module):
    x = np.array([1.5, -2.0, np.inf, np.nan, 0.0])
    np.testing.assert_array_equal(module.dropout(x, 0.0, 5), x)


@MODULES
def test_kept_elements_are_scaled(module):
    y = module.dropout(np.full(1000, 3.0, np.float32), 0.25, 9)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y[y != 0], 4.0, rtol=1e-6)


@MODULES
def test_an_element_depends_on_its_index_alone(module):
    """Prefixes agree, whatever the shape or the order in memory."""
    x = np.random.default_rng(0).normal(size=(64, 33))
    y = module.dropout(x, 0.3, 11)
    np.testing.assert_array_equal(module.dropout(x.reshape(-1)[:777], 0.3, 11), y.reshape(-1)[:777])
    np.testing.assert_array_equal(module.dropout(np.asfortranarray(x), 0.3, 11), y)


def test_threshold_ends():
    assert philox.threshold(0.0) == 0
    assert philox.threshold(1.0) == 2**32
