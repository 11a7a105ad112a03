"""Orders are bijections and look random; shards share out all samples; epochs see each once."""

from itertools import permutations
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data import sharding
from minillm.data.sharding import Permutation, Shard
from minillm.errors import UserError

SEEDS = st.integers(0, 2**63)


def keys(seed, count=8):
    return np.random.Philox(key=(7, seed)).random_raw(count)


def shards(how, n, batch_size, ranks, seed=5):
    return [Shard(how, n, batch_size, seed, rank, ranks) for rank in range(ranks)]


def equal_share(batch_size, rank, ranks):
    return batch_size * rank // ranks, batch_size * (rank + 1) // ranks


def drawn(shard, steps, start, stop):
    return np.concatenate([shard.draw(step, start, stop) for step in steps])


@given(n=st.integers(1, 3000), key=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8))
def test_an_order_is_a_bijection_whatever_the_keys(n, key):
    order = Permutation(n, np.array(key, np.uint64))(np.arange(n))
    assert order.dtype == np.int64 and np.array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("n", [10**9, 2**32, 2**62])
def test_an_order_of_very_many_needs_no_array_of_them(n):
    positions = np.array([0, 1, 2, n // 2, n - 2, n - 1])
    out = Permutation(n, keys(0))(positions)
    assert out.min() >= 0 and out.max() < n and len(set(out.tolist())) == 6
    assert abs(np.diff(out)).min() > n / 1e4  # neighbours go far apart


@pytest.mark.parametrize("n", [2, 3, 5])
def test_all_orders_of_a_few_come_out_equally_often(n):
    # Of 5, not so with a root of 3 in Permutation, however many rounds.
    counts = dict.fromkeys(permutations(range(n)), 0)
    draws = 10 * len(counts) + 1000
    for seed in range(draws):
        counts[tuple(Permutation(n, keys(seed))(np.arange(n)).tolist())] += 1
    expected = draws / len(counts)
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    assert abs(chi2 - (len(counts) - 1)) < 5 * sqrt(2 * (len(counts) - 1))


@pytest.mark.parametrize("apart", [1, 32])  # 32: the same y in Permutation
def test_neighbours_come_out_unrelated(apart):
    n = 1000
    orders = np.stack([Permutation(n, keys(seed))(np.arange(n)) for seed in range(200)])
    counts = np.bincount(((orders[:, apart:] - orders[:, :-apart]) % n).ravel(), minlength=n)[1:]
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(chi2 - (n - 2)) < 5 * sqrt(2 * (n - 2))


@given(n=st.integers(1, 300), batch=st.integers(1, 40), seed=SEEDS, first=st.integers(0, 2**62))
def test_every_epoch_deals_each_sample_once(n, batch, seed, first):
    shard = Shard("permutation", n, batch, seed, 0, 1)
    step = first - first % n  # n steps are a number of epochs
    epochs = drawn(shard, range(step, step + n), 0, batch).reshape(batch, n)
    assert all(np.array_equal(np.sort(epoch), np.arange(n)) for epoch in epochs)
    if batch > 1 and n > 20:
        assert (epochs[0] != epochs[1]).any()


def test_a_permutation_does_not_depend_on_the_ranks():
    whole = Shard("permutation", 50, 12, 3, 0, 1).draw(9, 0, 12)
    parts = [Shard("permutation", 50, 12, 3, r, 4).draw(9, 3 * r, 3 * r + 3) for r in range(4)]
    assert np.array_equal(np.concatenate(parts), whole)


@given(n=st.integers(40, 400), batch=st.integers(4, 20), ranks=st.integers(1, 4), seed=SEEDS)
@pytest.mark.parametrize("how", ["block", "hash"])
def test_shards_are_disjoint_and_cover_and_each_epoch_sees_a_sample_once(
    how, n, batch, ranks, seed
):
    seen = []
    for rank, shard in enumerate(shards(how, n, batch, ranks, seed)):
        start, stop = equal_share(batch, rank, ranks)
        epochs = drawn(shard, range(2 * shard.size), start, stop).reshape(-1, shard.size)
        own = np.sort(epochs[0])
        assert len(set(own.tolist())) == shard.size
        assert all(np.array_equal(np.sort(epoch), own) for epoch in epochs)
        seen.append(own)
    assert [len(own) for own in seen] == [s.size for s in shards(how, n, batch, ranks, seed)]
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(n))


def test_a_block_is_contiguous_and_its_order_is_not_that_of_another_rank():
    first, second = shards("block", 100, 8, 2)
    a, b = drawn(first, range(12), 0, 4), drawn(second, range(12), 4, 8)
    assert a.max() < 50 <= b.min()
    assert (a != b - 50).any()


@given(seed=SEEDS, n=st.integers(100, 500), more=st.integers(1, 500))
def test_hashed_samples_stay_put_when_others_are_added(seed, n, more):
    for before, after in zip(shards("hash", n, 6, 3, seed), shards("hash", n + more, 6, 3, seed)):
        assert np.array_equal(before.own, after.own[after.own < n])
        assert abs(after.size - (n + more) / 3) < 5 * sqrt((n + more) * 2 / 9)


def test_hashing_in_pieces_is_hashing_at_once(monkeypatch):
    whole = [s.own for s in shards("hash", 1000, 4, 4)]
    monkeypatch.setattr(sharding, "_PIECE", 7)
    assert all(np.array_equal(a, s.own) for a, s in zip(whole, shards("hash", 1000, 4, 4)))


@given(data=st.data(), batch=st.integers(4, 24), ranks=st.integers(2, 4))
@pytest.mark.parametrize("how", ["block", "hash"])
def test_no_sample_comes_twice_soon_when_shares_change_at_every_step(how, data, batch, ranks):
    rank = data.draw(st.integers(0, ranks - 1))
    shard = Shard(how, data.draw(st.integers(200, 2000)), batch, 1, rank, ranks)
    steps = shard.size // shard.lanes // shard.share  # as the head of sharding.py says
    bounds = st.lists(st.integers(0, batch), min_size=2, max_size=2).map(sorted)
    seen = np.concatenate([shard.draw(step, *data.draw(bounds)) for step in range(steps)])
    assert len(set(seen.tolist())) == len(seen)


@given(cuts=st.lists(st.integers(0, 12), max_size=4).map(sorted), step=st.integers(0, 2**62))
@pytest.mark.parametrize("how", ["permutation", "block", "hash"])
def test_micro_batches_are_parts_of_the_share(how, cuts, step):
    for shard in shards(how, 90, 12, 3):
        edges = [0, *cuts, 12]
        parts = [shard.draw(step, a, b) for a, b in zip(edges, edges[1:])]
        assert np.array_equal(np.concatenate(parts), shard.draw(step, 0, 12))


def test_the_draws_never_change():
    # A run resumed with a later version of this code, or of NumPy, must see the same samples.
    assert Shard("permutation", 10**9, 4, 1, 0, 1).draw(2, 0, 4).tolist() == [
        613980189,
        69910065,
        830017461,
        436816310,
    ]
    assert Shard("block", 1000, 8, 1, 1, 2).draw(70, 3, 8).tolist() == [877, 670, 905, 864, 975]
    assert Shard("hash", 1000, 8, 1, 1, 2).draw(70, 3, 8).tolist() == [773, 351, 799, 731, 962]


@pytest.mark.parametrize("how", ["block", "hash"])
def test_a_rank_without_a_sample_is_refused_on_every_rank(how):
    for rank in range(4):
        with pytest.raises(UserError, match="of 3 samples leaves some of 4 ranks without one"):
            Shard(how, 3, 8, 0, rank, 4)
    with pytest.raises(UserError, match="batch_size 3 over 4 ranks"):
        Shard(how, 100, 3, 0, 0, 4)


def test_an_unknown_sharding():
    with pytest.raises(UserError, match="no sharding 'blocks': choose random, permutation, block"):
        Shard("blocks", 3, 8, 0, 0, 1)
