"""The parameter server: synchronous steps that repeat, asynchronous ones within their bound."""

import threading
import time
from functools import partial

import numpy as np
import pytest

from minillm.distributed import SingleProcess, codecs, run_threads
from minillm.distributed.compression import Compressed
from minillm.distributed.sync import ParameterServer
from minillm.errors import UserError
from minillm.optim import SGD, clip_grad_norm
from minillm.tensor import Tensor
from tests.distributed.sync.counting import Counting
from tests.distributed.sync.scenario import train
from tests.programs import mpirun


def test_synchronous_runs_repeat_bit_for_bit():
    runs = [run_threads(3, lambda comm: train(comm, "parameter-server")) for _ in range(2)]
    assert len({run[0].flat.tobytes() for run in runs}) == 1


@pytest.mark.parametrize("staleness", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_parameters_are_never_too_stale(size, staleness):
    steps = 25

    def work(comm):
        hubs.append(getattr(comm, "_hub", None))
        run = Counting(comm, staleness=staleness)
        rng = np.random.default_rng((size, comm.rank))
        seen = []
        for _ in range(steps):
            time.sleep(rng.exponential(1e-3))
            run.step()
            seen.append(run.counts())
        own = run.sync.own(slice(0, 7))
        run.sync.settle()
        return seen, own, run.counts(), run.sync.exact

    hubs = []
    for rank, (seen, own, settled, exact) in enumerate(run_threads(size, work)):
        assert not exact and (settled == steps).all()
        for step, counts in enumerate(seen, 1):
            assert counts.min() >= step - staleness
            assert counts.max() <= step + staleness + 1
            assert (counts[rank, own] == step).all()  # what it serves has all its own
    assert not any(hubs[0].sends.values()) and not any(hubs[0].receives.values())


def test_a_slow_rank_holds_others_up_at_the_bound_and_not_below():
    staleness, done, changed = 3, np.zeros(3, int), threading.Condition()

    def at_least(steps):
        return (done[1:] >= steps).all()

    def work(comm):
        run = Counting(comm, staleness=staleness)
        for step in range(6):
            if comm.rank == 0:  # is as slow as it can
                with changed:
                    there = changed.wait_for(partial(at_least, min(step + staleness, 6)), 20)
                assert there, f"held up below the bound: {done}"
                assert done[1:].max() <= step + staleness
            run.step()
            with changed:
                done[comm.rank] += 1
                changed.notify_all()
        run.sync.settle()
        return run.counts()

    assert all((counts == 6).all() for counts in run_threads(3, work))


def test_ranks_without_data_and_collectives_between_steps():
    outcomes = run_threads(4, lambda comm: train(comm, "parameter-server", staleness=2))
    first = outcomes[0]
    assert all(other.flat.tobytes() == first.flat.tobytes() for other in outcomes)
    # 20 steps of 4 ranks, but in step 4 only 2 samples, for rank 1 and rank 3
    assert [outcome.sync.optimizer.steps for outcome in outcomes] == [78] * 4
    start = train(SingleProcess(), "naive", steps=[]).flat
    moved = first.flat - start
    right = train(SingleProcess(), "naive").flat - start
    assert moved @ right > 0.5 * np.linalg.norm(moved) * np.linalg.norm(right)


def test_one_rank_alone_trains_as_ever():
    got = train(SingleProcess(), "parameter-server", staleness=3)
    np.testing.assert_allclose(got.flat, train(SingleProcess(), "naive").flat, rtol=1e-10)


def test_shares_of_the_tokens_are_shares_of_the_learning_rate():
    def work(comm):
        w = Tensor(np.zeros(5), requires_grad=True)
        sync = ParameterServer(comm, SGD([w], lr=1.0), staleness=1)
        assert sync.divisor([30, 10][comm.rank], 40) == [30, 10][comm.rank]
        w.sum().backward()
        sync.finish()
        sync.step(lr_scale=0.5)
        own = w.data[sync.own(slice(0, 5))].copy()  # before the other's, or after
        sync.settle()
        return own, w.data

    for share, (own, settled) in zip([0.75, 0.25], run_threads(2, work)):
        assert np.isin(own, [-0.5 * share, -0.5]).all() and (settled == -0.5).all()


def test_each_rank_clips_its_own_gradient():
    def work(comm):
        w = Tensor(np.zeros(4), requires_grad=True)
        sync = ParameterServer(comm, SGD([w], lr=2.0), staleness=1)
        sync.divisor(1, 2)
        (w * (10.0 if comm.rank else 0.25)).sum().backward()
        sync.finish()
        norm, scale = clip_grad_norm(sync.optimizer.groups, 1.0, sync.total)
        sync.step(scale)
        sync.settle()
        return norm, w.data

    (small, w), (large, _) = run_threads(2, work)
    assert (small, large) == (0.5, 20.0)
    np.testing.assert_allclose(w, -(0.25 + 0.5), rtol=1e-6)


def quadratic(comm, steps, **options):
    """Rank r minimises (r + 1) |w - (0, 1, ..., 39)|^2 / 2; w after some steps."""
    w = Tensor(np.zeros(40), requires_grad=True)
    sync = ParameterServer(comm, SGD([w], 0.05), **options)
    for _ in range(steps):
        sync.divisor(1, comm.size)
        error = w - Tensor(np.arange(40.0))
        (error * error * Tensor(np.array((comm.rank + 1) / 2))).sum().backward()
        sync.finish()
        sync.step()
    sync.settle()
    return w.data.copy()


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_converges(staleness):
    for w in run_threads(3, lambda comm: quadratic(comm, 250, staleness=staleness)):
        np.testing.assert_allclose(w, np.arange(40), atol=1e-6)


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_compressed_pushes(codec):
    def work(comm):
        before = comm.bytes_sent
        sums = Compressed(codecs.make(codec, ratio=0.2))
        w = quadratic(comm, 100, staleness=2, sums=sums)
        return w, comm.bytes_sent - before

    plain = run_threads(3, lambda comm: (quadratic(comm, 100, staleness=2), comm.bytes_sent))
    (first, _), *_ = results = run_threads(3, work)
    for (w, sent), (_, more) in zip(results, plain):
        assert w.tobytes() == first.tobytes()
        assert sent < 0.8 * more
        np.testing.assert_allclose(w, np.arange(40), atol=0.05)


def test_state_of_an_asynchronous_run_goes_on_elsewhere():
    saved, *others = run_threads(
        3, lambda comm: train(comm, "parameter-server", steps=range(7), staleness=2)
    )
    assert saved.state["step"] == [7 * 3 - 1]  # one had no data in step 4
    for kind, size in [("parameter-server", 2), ("zero1", 4), ("naive", 1)]:
        outcomes = run_threads(
            size, lambda comm, kind=kind: train(comm, kind, steps=range(7, 20), start=saved)
        )
        assert len({outcome.flat.tobytes() for outcome in outcomes}) == 1
        assert outcomes[0].losses[-1] < 20


def test_settling_twice_sends_nothing_more():
    def work(comm):
        run = Counting(comm, staleness=2)
        run.sync.settle()  # nothing was done yet
        none = comm.bytes_sent
        run.step()
        run.sync.settle()
        once = comm.bytes_sent
        run.sync.settle()
        run.step()
        run.sync.settle()
        return none, once, comm.bytes_sent - 2 * once, (run.counts() == 2).all()

    def sent_before(comm):
        Counting(comm, staleness=2)
        return comm.bytes_sent

    start = run_threads(3, sent_before)
    for before, (none, once, more, complete) in zip(start, run_threads(3, work)):
        assert none == before < once and more == -before and complete


def test_a_failing_rank_ends_the_others():
    def work(comm):
        run = Counting(comm, staleness=1)
        for step in range(5):
            if comm.rank == 1 and step == 3:
                raise ZeroDivisionError
            run.step()

    with pytest.raises(ZeroDivisionError):
        run_threads(3, work)


def test_on_real_ranks():
    done = mpirun(3, "tests/distributed/sync/scripts/stale.py", limit=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_refusals():
    with pytest.raises(UserError, match="negative"):
        Counting(SingleProcess(), staleness=-1)
    with pytest.raises(UserError, match="whole model"):
        run_threads(2, lambda comm: Counting(comm, model=comm))
