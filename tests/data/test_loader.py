import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data import Loader
from minillm.errors import UserError
from tests import fake_cupy

TOKENS = np.random.default_rng(0).integers(0, 60_000, 1000).astype(np.uint16)


@given(
    n=st.integers(2, 60), T=st.integers(1, 59), B=st.integers(1, 20),
    seed=st.integers(0, 2**63), step=st.integers(0, 2**63),
)  # fmt: skip
def test_windows_of_the_text_whatever_the_sizes(n, T, B, seed, step):
    T = min(T, n - 1)
    loader = Loader(TOKENS[:n], B, T, seed)
    starts = loader.starts(step)
    assert starts.shape == (B,) and starts.dtype == np.int64
    assert starts.min() >= 0 and starts.max() + T + 1 <= n
    x, y = loader.batch(step, 0, B)
    assert x.shape == y.shape == (B, T) and x.dtype == y.dtype == np.int64
    for row, start in enumerate(starts):
        assert np.array_equal(x[row], TOKENS[start : start + T])
        assert np.array_equal(y[row], TOKENS[start + 1 : start + T + 1])


@given(cuts=st.lists(st.integers(0, 12), max_size=5), step=st.integers(0, 1000))
def test_ranks_together_read_the_global_batch(cuts, step):
    whole = Loader(TOKENS, 12, 8, seed=3).batch(step, 0, 12)
    edges = [0, *sorted(cuts), 12]
    parts = [Loader(TOKENS, 12, 8, seed=3).batch(step, a, b) for a, b in zip(edges, edges[1:])]
    for side in (0, 1):
        assert np.array_equal(np.concatenate([part[side] for part in parts]), whole[side])


def test_any_step_can_be_replayed_alone():
    loader = Loader(TOKENS, 4, 8, seed=1)
    forward = [loader.starts(step) for step in range(20)]
    backward = [Loader(TOKENS, 4, 8, seed=1).starts(step) for step in reversed(range(20))]
    assert np.array_equal(forward, backward[::-1])


def test_the_draw_never_changes():
    # A run resumed with a later version of this code, or of NumPy, must see the same batches.
    assert Loader(TOKENS, 4, 8, seed=1).starts(2).tolist() == [306, 354, 36, 954]


def test_steps_and_seeds_differ_and_cover_the_text_evenly():
    draws = np.stack([Loader(TOKENS, 100, 8, seed).starts(s) for seed in (0, 1) for s in range(50)])
    assert len({tuple(row) for row in draws}) == len(draws)
    counts = np.bincount(draws.ravel(), minlength=992)
    assert counts.size == 992 and counts.min() > 0  # 10 expected for each start
    chi2 = ((counts - draws.size / 992) ** 2 / (draws.size / 992)).sum()
    assert abs(chi2 - 991) < 5 * np.sqrt(2 * 991)


@pytest.mark.parametrize("sharding", ["permutation", "block", "hash"])
@given(n=st.integers(41, 1000), T=st.integers(1, 9), steps=st.integers(0, 5))
def test_sharded_samples_are_windows_side_by_side(sharding, n, T, steps):
    batches = []
    for rank in range(3):
        loader = Loader(TOKENS[:n], 7, T, 1, sharding=sharding, rank=rank, ranks=3)
        start, stop = 7 * rank // 3, 7 * (rank + 1) // 3
        starts = loader.starts(steps, start, stop)
        assert (starts % T == 0).all() and starts.min() >= 0 and starts.max() + T + 1 <= n
        x, y = loader.batch(steps, start, stop)
        for row, first in enumerate(starts):
            assert np.array_equal(x[row], TOKENS[first : first + T])
            assert np.array_equal(y[row], TOKENS[first + 1 : first + T + 1])
        batches.append(starts)
    if sharding == "permutation":
        alone = Loader(TOKENS[:n], 7, T, 1, sharding=sharding).starts(steps)
        assert np.array_equal(np.concatenate(batches), alone)


@pytest.mark.parametrize("sharding", ["permutation", "block", "hash"])
def test_the_ranks_read_every_window_once_an_epoch(sharding):
    seen = []
    for rank in range(2):
        loader = Loader(TOKENS[:97], 6, 8, 0, sharding=sharding, rank=rank, ranks=2)
        size = 6 if sharding == "permutation" else loader.shard.size  # of 12 samples
        draws = [loader.starts(step, 3 * rank, 3 * rank + 3) for step in range(-(-size // 3))]
        seen += np.concatenate(draws)[:size].tolist()
    assert sorted(seen) == list(range(0, 96, 8))


def test_too_few_samples_for_the_ranks():
    with pytest.raises(UserError, match="'block' of 3 samples leaves some of 4 ranks without one"):
        Loader(TOKENS[:32], 8, 8, 0, sharding="block", rank=1, ranks=4)
    with pytest.raises(UserError, match="no sharding 'blocks'"):
        Loader(TOKENS, 8, 8, 0, sharding="blocks")


@pytest.mark.parametrize("tokens, batch, block", [(8, 1, 8), (0, 1, 1)])
def test_too_few_tokens(tokens, batch, block):
    with pytest.raises(
        UserError, match=f"{tokens} tokens, but block_size {block} needs {block + 1}"
    ):
        Loader(TOKENS[:tokens], batch, block, seed=0)


@pytest.mark.parametrize("batch, block", [(0, 8), (4, 0), (-1, 8)])
def test_sizes_below_one(batch, block):
    with pytest.raises(UserError, match="at least 1"):
        Loader(TOKENS, batch, block, seed=0)


@pytest.mark.parametrize("start, stop", [(-1, 2), (3, 2), (0, 5)])
def test_samples_outside_the_batch(start, stop):
    with pytest.raises(ValueError, match="of a batch of 4"):
        Loader(TOKENS, 4, 8, seed=0).batch(0, start, stop)


def test_batches_lie_on_the_device_asked_for():
    here = Loader(TOKENS, 4, 8, seed=1).batch(3, 1, 3)
    with fake_cupy.installed():
        there = Loader(TOKENS, 4, 8, seed=1, device="cuda").batch(3, 1, 3)
    for a, b in zip(here, there):
        assert isinstance(a, np.ndarray) and not isinstance(b, np.ndarray)
        np.testing.assert_array_equal(a, b.get())
