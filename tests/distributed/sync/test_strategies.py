"""Exact strategies equal one process on the whole batch; all keep ranks alike, and their state."""

import time
from dataclasses import replace

import numpy as np
import pytest

from minillm.distributed import SingleProcess, codecs, run_threads
from minillm.distributed.comm import BARRIER_TAG
from minillm.distributed.compression import Compressed
from minillm.distributed.sync import STRATEGIES, Bucketed, Naive, ParameterServer, Zero1
from minillm.errors import UserError
from minillm.optim import SGD, AdamW
from minillm.tensor import Tensor
from tests.distributed.sync.scenario import EXACT, OPTIMIZERS, train

ALONE = {}


def alone(optimizer):
    """Training by one process."""
    if optimizer not in ALONE:
        ALONE[optimizer] = train(SingleProcess(), "naive", optimizer, micro=100)
    return ALONE[optimizer]


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", EXACT)
def test_equals_one_process(kind, size, optimizer):
    first, *others = run_threads(size, lambda comm: train(comm, kind, optimizer))
    assert first.sync.exact
    assert all(other.flat.tobytes() == first.flat.tobytes() for other in others)
    assert all(other.norms == first.norms for other in others)
    close(first.flat, alone(optimizer).flat)
    close(first.norms, alone(optimizer).norms)
    assert min(first.norms) < 4 < max(first.norms)  # some were clipped, some not
    assert first.state.keys() == alone(optimizer).state.keys()
    for name, array in first.state.items():
        close(array, alone(optimizer).state[name])


@pytest.mark.parametrize("before, after", [(1, 3), (3, 2), (2, 4), (4, 1)])
@pytest.mark.parametrize("kind", EXACT)
def test_state_goes_on_on_another_number_of_ranks(kind, before, after):
    saved, *_ = run_threads(before, lambda comm: train(comm, kind, steps=range(7)))
    other = EXACT[EXACT.index(kind) - 1]  # the state is the same whatever the strategy

    def go_on(comm):
        return train(comm, other, steps=range(7, 20), start=saved)

    for outcome in run_threads(after, go_on):
        close(outcome.flat, alone("adamw").flat)


@pytest.mark.parametrize("kind", EXACT)
def test_the_squares_of_the_own_gradient(kind):
    outcomes = run_threads(3, lambda comm: train(comm, kind, steps=[4]))  # rank 0 has no data
    own = [outcome.sync.own_squares for outcome in outcomes]
    assert own[0] == 0 and min(own[1:]) > 0
    assert own[1] != own[2]


@pytest.mark.parametrize("kind", EXACT)
def test_waiting_is_counted(kind):
    def work(comm):
        return train(comm, kind, steps=range(5), late=0.05 * comm.rank).sync.exposed_seconds

    began = time.perf_counter()
    waited, _ = run_threads(2, work)
    assert 0.1 < waited < time.perf_counter() - began  # of the 0.25 s that rank 1 came late


@pytest.mark.parametrize("codec", codecs.NAMES)
@pytest.mark.parametrize("kind", STRATEGIES)
def test_compressed_sums_leave_the_same_bits(kind, codec):
    def work(comm):
        sums = Compressed(codecs.make(codec, ratio=0.1))
        return train(comm, kind, sums=sums)

    first, *others = run_threads(3, work)
    assert all(other.flat.tobytes() == first.flat.tobytes() for other in others)
    assert not np.array_equal(first.flat, alone("adamw").flat)
    start = train(SingleProcess(), "naive", steps=[]).flat
    moved, right = first.flat - start, alone("adamw").flat - start
    assert moved @ right > 0.5 * np.linalg.norm(moved) * np.linalg.norm(right)


def compressed():
    return Compressed(codecs.make("int8"))


def owed(state):
    return np.concatenate([a.reshape(-1) for name, a in state.items() if name.startswith("owed")])


@pytest.mark.parametrize("kind", EXACT)
def test_one_rank_that_goes_on_pays_what_was_owed(kind):
    saved, *_ = run_threads(3, lambda comm: train(comm, kind, steps=range(7), sums=compressed()))
    after = train(SingleProcess(), kind, steps=[7], start=saved, sums=compressed())
    without = {name: a * (not name.startswith("owed")) for name, a in saved.state.items()}
    unpaid = train(SingleProcess(), kind, steps=[7], start=replace(saved, state=without))
    assert owed(saved.state).any() and not owed(after.state).any()
    assert not np.array_equal(after.flat, unpaid.flat)


@pytest.mark.parametrize(
    "before, after, kept",
    [("zero1", "naive", True), ("local-sgd", "zero1", False), ("naive", "local-sgd", False)],
)
def test_what_is_owed_to_sums_of_something_else_is_dropped(before, after, kept):
    """Local SGD owes changes of parameters: added to gradients, they would be any step at all."""
    saved, *_ = run_threads(2, lambda comm: train(comm, before, steps=range(7), sums=compressed()))

    def go_on(comm):
        return train(comm, after, steps=[], start=saved, sums=compressed()).state

    first, _ = run_threads(2, go_on)
    assert owed(saved.state).any() and owed(first).any() == kept


@pytest.mark.parametrize("kind", ["zero1", "parameter-server"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_optimiser_state_is_split_over_ranks(kind, size):
    def held(comm):
        groups = train(comm, kind, steps=[0]).sync.optimizer.groups
        shards = [shard for group in groups for shard in group.shards]
        return [sum(a.size for shard in shards for a in shard.state.values()), len(shards)]

    n = train(SingleProcess(), "naive", steps=[]).flat.size
    counts = run_threads(size, held)
    assert sum(numbers for numbers, _ in counts) == 2 * n
    assert all(abs(numbers - 2 * n / size) <= 2 * shards for numbers, shards in counts)


def two_layers(comm, kind, **options):
    """A strategy on two layers, their loss, and how many bytes a step sent."""
    weights = [Tensor(np.eye(64) * 0.5, requires_grad=True) for _ in range(2)]
    sync = kind(comm, SGD(weights, 0.1), **options)

    def step():
        before = comm.bytes_sent
        ((Tensor(np.ones((1, 64))) @ weights[0]).tanh() @ weights[1]).sum().backward()
        started = comm.bytes_sent > before
        sync.finish()
        sync.step()
        return started, comm.bytes_sent - before

    return step


@pytest.mark.parametrize("kind", STRATEGIES)
def test_parameters_are_sent_once_at_the_start(kind):
    def work(comm):
        two_layers(comm, STRATEGIES[kind])
        return comm.bytes_sent, [call.name for call in comm.flight.calls]

    n = 2 * 64 * 64 * 8
    assert run_threads(2, work) == [(n, ["broadcast"]), (0, ["broadcast"])]


@pytest.mark.parametrize("kind", [Zero1, ParameterServer])
@pytest.mark.parametrize("size", [2, 4])
def test_a_step_sends_what_a_ring_would(kind, size):
    n = 2 * 64 * 64 * 8
    for _, sent in run_threads(size, lambda comm: two_layers(comm, kind)()):
        assert sent == 2 * (size - 1) * n // size


@pytest.mark.parametrize("kind", [Bucketed, Zero1])
def test_sums_start_during_backward(kind):
    steps = run_threads(2, lambda comm: two_layers(comm, kind, bucket_bytes=1)())
    assert all(started for started, _ in steps)


@pytest.mark.parametrize("kind, options", [(Naive, {}), (Bucketed, {"bucket_bytes": 1})])
def test_more_sums_than_ranks_can_tell_apart_are_refused(kind, options):
    def work(comm):
        weights = [Tensor(np.ones(1), requires_grad=True) for _ in range(BARRIER_TAG + 1)]
        sync = kind(comm, SGD(weights, 0.1), **options)
        with pytest.raises(UserError, match=f"tag {BARRIER_TAG}: .*--sync bucketed"):
            sync.finish()

    work(SingleProcess())


@pytest.mark.parametrize("kind", [STRATEGIES[kind] for kind in EXACT])
def test_fewer_elements_than_ranks(kind):
    def work(comm):
        w = Tensor(np.ones(2), requires_grad=True)
        sync = kind(comm, AdamW([w], 0.1))
        for _ in range(3):
            (w * (comm.rank + 1.0)).sum().backward()
            sync.finish()
            sync.step()
        return w.data

    want = work(SingleProcess())  # Adam's steps do not depend on the scale of gradients
    for got in run_threads(4, work):
        np.testing.assert_allclose(got, want, rtol=1e-7)
