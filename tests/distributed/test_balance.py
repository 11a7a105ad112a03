"""Shares follow speeds, change only for a reason, and leave the gradient what it is."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.distributed import DistributedDataParallel, SingleProcess, global_count, run_threads
from minillm.distributed.balance import Balancer, shares
from minillm.errors import UserError
from minillm.optim.flat import FlatGroup
from tests.distributed.ddp_scenario import batch, loss, model
from tests.programs import mpirun

SPEEDS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


@given(speeds=SPEEDS, spare=st.integers(0, 200), unit=st.floats(1e-150, 1e150))
@example(speeds=[1e-3, 1e3], spare=0, unit=1.0)
@example(speeds=[3.0] * 7, spare=0, unit=1 / 3)
def test_shares_are_exact_and_follow_the_speeds(speeds, spare, unit):
    ranks, size = len(speeds), len(speeds) + spare
    result = shares(size, [unit * speed for speed in speeds])
    assert sum(result) == size and min(result) >= 1 and all(type(n) is int for n in result)
    for i in range(ranks):
        for j in range(ranks):
            assert speeds[i] <= speeds[j] or result[i] >= result[j]
    quotas = size * np.array(speeds) / sum(speeds)
    if quotas.min() >= 1:
        assert np.abs(result - quotas).max() < 1 + 1e-9


@pytest.mark.parametrize(
    "size, speeds, result",
    [
        (16, [1, 1, 1], [6, 5, 5]),  # of equal remainders, the lower ranks
        (16, [1, 3, 3, 3], [1, 5, 5, 5]),
        (32, [3, 1], [24, 8]),
        (10, [1, 1000, 1000], [1, 5, 4]),  # at least 1
        (5, [1, 1, 1, 1, 1000], [1, 1, 1, 1, 1]),
        (7, [0.5], [7]),
    ],
)
def test_shares_by_hand(size, speeds, result):
    assert shares(size, speeds) == result


@pytest.mark.parametrize("speed", [0, -1, np.nan, np.inf])
def test_a_speed_that_is_none(speed):
    with pytest.raises(ValueError, match="positive and finite"):
        shares(4, [1.0, speed])
    with pytest.raises(ValueError, match="positive and finite"):
        run_threads(2, lambda comm: Balancer(comm, 4, "static", speed if comm.rank else 1.0))


def test_bad_input():
    with pytest.raises(UserError, match="no balance 'fair': choose one of equal, static, dynamic"):
        Balancer(SingleProcess(), 4, "fair")
    with pytest.raises(UserError, match="batch_size 3 over 4 ranks leaves some without a sample"):
        run_threads(4, lambda comm: Balancer(comm, 3))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_equal_shares_are_those_of_before(size):
    def work(comm):
        balancer = Balancer(comm, 13)
        for _ in range(30):
            balancer.note(1.0 + comm.rank, 3)  # of no consequence
        return balancer.share()

    want = [(13 * r // size, 13 * (r + 1) // size) for r in range(size)]
    assert run_threads(size, work) == want


def test_static_shares_follow_what_was_measured_once():
    def work(comm):
        balancer = Balancer(comm, 32, "static", [0.3, 0.1, 0.1, 0.2][comm.rank])
        for _ in range(30):
            balancer.note(1.0, 1)
        return balancer.share(), balancer.shares

    results = run_threads(4, work)
    assert all(told == shares(32, [2, 6, 6, 3]) for _, told in results)
    edges = [edge for share, _ in results for edge in share]
    assert edges[0] == 0 and edges[-1] == 32 and edges[1:-1:2] == edges[2::2]


def follow(size, batch_size, seconds, steps, interval=4):
    """The shares after each step, when rank r takes `seconds(step, r)` a sample."""

    def work(comm):
        balancer, history = Balancer(comm, batch_size, "dynamic", interval=interval), []
        for step in range(steps):
            start, stop = balancer.share()
            balancer.note(seconds(step, comm.rank) * (stop - start), stop - start)
            history.append(balancer.shares)
        return history

    first, *others = run_threads(size, work)
    assert all(other == first for other in others)  # all decide alike
    return first


def test_dynamic_shares_follow_a_rank_that_becomes_slow_and_recovers():
    history = follow(3, 35, lambda step, rank: 3.0 if rank == 1 and 10 <= step < 22 else 1.0, 32)
    assert history[2] == [11, 12, 12]
    assert history[15] == shares(35, [3, 1, 3])  # decided on steps 12 to 15
    assert history[31] in ([12, 12, 11], [12, 11, 12], [11, 12, 12])


def test_noise_does_not_make_shares_dance():
    rng = np.random.default_rng(0)
    noise = rng.uniform(0.98, 1.02, (400, 4))
    history = follow(4, 64, lambda step, rank: noise[step, rank], 400)
    assert all(now == [16, 16, 16, 16] for now in history)
    slow = follow(4, 64, lambda step, rank: noise[step, rank] * (3 if rank == 3 else 1), 400)
    assert len({tuple(now) for now in slow}) <= 2 + 1  # equal, found; one correction at most
    assert slow[-1][3] in (6, 7)


def test_one_step_that_was_held_up_moves_nothing():
    history = follow(2, 10, lambda step, rank: 50.0 if (step, rank) == (9, 0) else 1.0, 20)
    assert all(now == [5, 5] for now in history)


def train(comm, share):
    """Parameters (n,), float64, after 12 steps of the scenario; `share(step)` is this rank's."""
    p = model()
    groups = [FlatGroup(t for t in p.values() if t.ndim == d) for d in (1, 2)]
    ddp = DistributedDataParallel(comm, groups, bucket_bytes=600)
    for step in range(5, 17):  # a batch of 13 each
        x, y, tokens = batch(step)
        start, stop = share(step)
        total = global_count(comm, int(tokens[start:stop].sum()))
        for i in range(start, stop, 2):
            s = slice(i, min(i + 2, stop))
            with nullcontext() if s.stop == stop else ddp.no_sync():
                loss(p, x[s], y[s], tokens[s], i, total).backward()
        ddp.finish()
        for group in groups:
            group.data -= 0.1 * group.grad
            group.zero_grad()
    return np.concatenate([group.data for group in groups])


@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_shares_reach_the_parameters_of_one_process(size):
    alone = train(SingleProcess(), lambda step: (0, 13))

    def work(comm):
        def share(step):  # others at each step, some very unequal
            speeds = np.exp(np.random.default_rng(step).normal(0, 2, size))
            edges = np.cumsum([0, *shares(13, speeds)]).tolist()
            return edges[comm.rank], edges[comm.rank + 1]

        return train(comm, share)

    first, *others = run_threads(size, work)
    assert all(other.tobytes() == first.tobytes() for other in others)
    np.testing.assert_allclose(first, alone, rtol=1e-10, atol=0)


def test_the_benchmark_balances_a_slow_rank():
    """Real ranks, real work; how fast they are is not for a test."""
    args = ["--slow", "4", "--steps", "1", "--rounds", "2", "--interval", "2"]
    args += ["--batch_size", "12", "--n_embd", "32"]
    done = mpirun(2, "bench/balance.py", *args, limit=100)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^(equal|static|dynamic) .*?(\d+) \+ (\d+)", done.stdout, re.MULTILINE)
    found = {mode: (int(fast), int(slow)) for mode, fast, slow in rows}
    assert found["equal"] == (6, 6)
    assert all(sum(found[mode]) == 12 for mode in ("static", "dynamic"))
