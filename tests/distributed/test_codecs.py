"""Codecs: as near as they say, of any length and range; what is not finite stays visible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minillm.distributed import codecs
from minillm.errors import UserError

RATIO = 0.1
name = pytest.mark.parametrize("name", codecs.NAMES)


def bound(name, magnitudes):
    """The error that codecs.py states for numbers of at most these magnitudes, and rounding."""
    if name == "bf16":
        return magnitudes / 256 + 2.0**-134
    if name == "topk":
        return magnitudes
    starts = np.arange(0, magnitudes.size, codecs.BLOCK)
    largest = np.maximum.reduceat(magnitudes, starts) if starts.size else magnitudes
    tiny = 127 * np.finfo(magnitudes.dtype).tiny
    spread = np.repeat(largest, codecs.BLOCK)[: magnitudes.size]
    return np.where(spread < tiny, spread, spread / 254 * (1 + 1e-4))


def coded(codec, x):
    data = np.empty(codec.nbytes(x.size, x.dtype), np.uint8)
    out = np.full_like(x, 7)
    codec.encode(x, data)
    codec.decode(data, out)
    return out


@name
@given(
    st.sampled_from([32, 64]).flatmap(
        lambda width: arrays.arrays(
            f"f{width // 8}",
            st.integers(0, 600),
            elements=st.floats(-(2.0**120), 2.0**120, width=width),
            fill=st.floats(-1, 1, width=width),
        )
    )
)
def test_a_codec_errs_no_more_than_it_says(name, x):
    out = coded(codecs.make(name, RATIO), x)
    assert out.dtype == x.dtype and (np.abs(x - out) <= bound(name, np.abs(x))).all()


@given(
    st.integers(1, 500) | st.integers(5_000, 20_000),
    st.floats(1e-4, 1),
    st.integers(1, 1000),
    st.sampled_from([0, 1, 1000]),
)
def test_topk_keeps_the_largest_and_of_equal_ones_the_first(n, ratio, values, sampled):
    x = np.random.default_rng(n).integers(-values, values + 1, n).astype(np.float32)
    x[:: max(1, n // 4096)] *= sampled  # what it samples is smaller than the rest, or larger
    out = coded(codecs.make("topk", ratio), x)
    kept = np.argsort(-np.abs(x), kind="stable")[: codecs.TopK(ratio).kept(n)]
    assert max(1, ratio * n) <= kept.size <= ratio * n + 1
    want = np.zeros_like(x)
    want[kept] = x[kept]
    assert (out == want).all()


@pytest.mark.parametrize("largest, kept", [(1e-45, 0), (2e-43, 0), (1e-36, 0), (2e-36, 2e-36)])
def test_int8_of_a_block_without_a_usable_scale_is_0(largest, kept):
    out = coded(codecs.make("int8"), np.full(300, largest, np.float32))
    np.testing.assert_allclose(out, kept, rtol=1e-6, atol=0)


def test_an_outlier_spoils_its_own_block_of_int8_alone():
    x = np.random.default_rng(0).uniform(-1, 1, 3 * codecs.BLOCK + 5).astype(np.float32)
    x[codecs.BLOCK + 3] = 1e6
    wrong = np.abs(coded(codecs.make("int8"), x) - x) > 1 / 250
    assert wrong[codecs.BLOCK : 2 * codecs.BLOCK].mean() > 0.9
    assert not wrong[: codecs.BLOCK].any() and not wrong[2 * codecs.BLOCK :].any()


@name
@pytest.mark.parametrize("n", [1, 255, 700])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(name, n, bad):
    x = np.linspace(-1, 1, n, dtype=np.float32)
    x[n // 2] = bad
    out = coded(codecs.make(name, 1e-9), x)
    assert not np.isfinite(out[n // 2])
    if name != "int8":
        assert np.array_equal(out[n // 2], x[n // 2], equal_nan=True)


def test_topk_takes_nan_before_infinity():
    x = np.array([np.inf, 1, -np.nan, -np.inf])
    assert np.isnan(coded(codecs.make("topk", 0.25), x)[2])


def test_unusable_settings_are_refused():
    with pytest.raises(UserError, match="no compression 'int4'"):
        codecs.make("int4")
    for ratio in (0, -1, 1.5, np.nan):
        with pytest.raises(UserError, match="in \\(0, 1\\]"):
            codecs.make("topk", ratio)
