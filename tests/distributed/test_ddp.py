"""Data-parallel gradients: equal to one process, summed once, and sent while backward runs."""

import numpy as np
import pytest

from minillm.distributed import (
    DistributedDataParallel,
    SingleProcess,
    run_threads,
)
from minillm.ops.op import Op
from minillm.optim.flat import FlatGroup
from minillm.tensor import Tensor, apply
from tests.distributed.ddp_scenario import train

SINGLE = {}


def single():
    if not SINGLE:
        SINGLE["params"] = train(SingleProcess())
    return SINGLE["params"]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_equals_one_process(size):
    first, *others = run_threads(size, train)
    assert all(other.tobytes() == first.tobytes() for other in others)
    np.testing.assert_allclose(first, single(), rtol=1e-10, atol=0)


def test_accumulation_equals_one_large_micro_batch():
    np.testing.assert_allclose(train(SingleProcess(), micro=100), single(), rtol=1e-10, atol=0)


def layers(count=4, width=64):
    """Square matrices in a chain, as a flat group; and a loss that goes through them all."""
    weights = [Tensor(np.eye(width), requires_grad=True) for _ in range(count)]

    def loss(x):
        h = Tensor(x)
        for w in weights:
            h = (h @ w).tanh()
        return h.sum()

    return weights, FlatGroup(weights), loss


def test_messages_leave_while_backward_runs():
    def work(comm):
        weights, group, loss = layers()
        ddp = DistributedDataParallel(comm, [group], bucket_bytes=group.grad.nbytes // 4)
        events = []
        isend = comm.isend
        comm.isend = lambda *args: (events.append("send"), isend(*args))[1]
        for i, w in enumerate(weights):
            w.register_post_accumulate_grad_hook(lambda w, i=i: events.append(i))
        loss(np.ones((2, 64))).backward()
        started = ddp.started
        ddp.finish()
        return events, started, len(ddp.buckets), ddp.exposed_seconds > 0

    for events, started, buckets, exposed in run_threads(2, work):
        gradients = [e for e in events if e != "send"]
        assert gradients == [3, 2, 1, 0] and buckets == started == 4 and exposed
        assert events.index("send") < events.index(2) < events.index(0)


def test_accumulation_communicates_once():
    def work(comm):
        _, group, loss = layers()
        ddp = DistributedDataParallel(comm, [group], bucket_bytes=1)
        before = comm.bytes_sent
        with ddp.no_sync():
            loss(np.ones((2, 64))).backward()
            loss(np.ones((2, 64))).backward()
        silent = comm.bytes_sent - before
        loss(np.ones((2, 64))).backward()
        ddp.finish()
        return silent, comm.bytes_sent - before, group.grad.nbytes

    for silent, sent, nbytes in run_threads(2, work):
        assert silent == 0 and sent == nbytes


def test_buckets_cover_all_in_an_order_that_follows_backward():
    _, large, _ = layers(count=6)
    biases = FlatGroup([Tensor(np.zeros(8), requires_grad=True) for _ in range(6)])
    size = large.grad.nbytes // 6
    ddp = DistributedDataParallel(SingleProcess(), [biases, large], bucket_bytes=2 * size)
    assert [b.grad.size for b in ddp.buckets] == [2 * 64**2, 2 * 64**2, 48, 2 * 64**2]
    assert sum(np.shares_memory(b.grad, large.grad) for b in ddp.buckets) == 3


def test_a_second_backward_without_no_sync_is_refused():
    def work(comm):
        _, group, loss = layers()
        DistributedDataParallel(comm, [group], bucket_bytes=1)
        loss(np.ones((2, 64))).backward()
        loss(np.ones((2, 64))).backward()

    with pytest.raises(RuntimeError, match="no_sync"):
        run_threads(2, work)


class Silent(Op):
    """y = 0, without a gradient."""

    @staticmethod
    def forward(x):
        return np.zeros(()), ()

    @staticmethod
    def backward(dy, saved, needs):
        return (None,)


def test_a_parameter_that_backward_reaches_without_a_gradient():
    def work(comm):
        p = Tensor(np.ones(10), requires_grad=True)
        ddp = DistributedDataParallel(comm, [group := FlatGroup([p])])
        for silent in (None, 0):  # the first step leaves something in the buffer
            group.zero_grad()
            (apply(Silent, p) if comm.rank == silent else (p * 3).sum()).backward()
            ddp.finish()
        return group.grad.tolist()

    assert run_threads(3, work) == [[6] * 10] * 3


def test_an_error_in_backward_on_one_rank_ends_the_others():
    def work(comm):
        weights, group, loss = layers()
        ddp = DistributedDataParallel(comm, [group], bucket_bytes=1)
        if comm.rank == 1:
            weights[0].register_hook(lambda grad: 1 / 0)
        loss(np.ones((2, 64))).backward()
        ddp.finish()

    with pytest.raises(ZeroDivisionError):
        run_threads(3, work)


def test_large_model():
    def work(comm):
        x = np.full((1, 700), 0.1 * (comm.rank + 1))
        _, alone, loss = layers(count=3, width=700)  # 1.5 million elements
        loss(x).backward()
        _, group, loss = layers(count=3, width=700)
        ddp = DistributedDataParallel(comm, [group], bucket_bytes=1 << 20)
        loss(x).backward()
        ddp.finish()
        return alone.grad, group.grad

    results = run_threads(3, work)
    want = sum(alone for alone, _ in results)
    assert all(np.allclose(grad, want, rtol=1e-12, atol=1e-12) for _, grad in results)
