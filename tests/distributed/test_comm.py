"""The Communicator's contract, on threads; and what happens to a message that makes no sense."""

import threading
import time

import ml_dtypes
import numpy as np
import pytest

from minillm.distributed import SingleProcess, global_count, on_root, run_threads
from minillm.errors import UserError


def test_any_dtype_travels_as_bytes():
    arrays = [
        np.arange(5).astype(dtype) for dtype in (ml_dtypes.bfloat16, np.float16, np.int8, bool)
    ]

    def exchange(comm):
        got = [np.zeros_like(a) for a in arrays]
        for sent, into in zip(arrays, got):
            comm.sendrecv(sent, 1 - comm.rank, into, 1 - comm.rank)
        return got, comm.bytes_sent

    for got, sent in run_threads(2, exchange):
        assert all(np.array_equal(g, a) for g, a in zip(got, arrays))
        assert sent == sum(a.nbytes for a in arrays)


def test_messages_keep_their_order_and_their_tags():
    def talk(comm):
        if comm.rank == 0:
            for value, tag in [(1, 7), (2, 8), (3, 7)]:
                comm.isend(np.array([value]), 1, tag)
            return None
        got = np.zeros((3, 1), int)
        for into, tag in zip(got, [8, 7, 7]):
            comm.recv(into, 0, tag)
        return got.ravel().tolist()

    assert run_threads(2, talk)[1] == [2, 1, 3]


def test_a_request_is_done_once_its_partner_came():
    met = threading.Event()

    def meet(comm):
        word = np.array([comm.rank])
        if comm.rank == 0:
            request = comm.isend(word, 1)
            early = request.test()
            met.set()
            request.wait()
            return early, request.test()
        met.wait(10)
        comm.recv(word, 0)
        return word[0]

    assert run_threads(2, meet) == [(False, True), 0]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_barrier(size):
    came, seen = [], []

    def meet(comm):
        time.sleep(0.01 * comm.rank)
        came.append(comm.rank)
        comm.barrier()
        seen.append(len(came))

    run_threads(size, meet)
    assert seen == [size] * size


def test_blocking_sends_around_a_ring_deadlock_and_say_so():
    def naive(comm):
        comm.send(np.zeros(1), (comm.rank + 1) % 3)
        comm.recv(np.zeros(1), (comm.rank - 1) % 3)

    with pytest.raises(RuntimeError, match="deadlock: rank 0 sends to 1 .*; rank 1 .*; rank 2 "):
        run_threads(3, naive)


def test_a_rank_that_waits_for_one_that_ended_is_told():
    with pytest.raises(RuntimeError, match="deadlock: rank 0 receives from 1"):
        run_threads(2, lambda comm: comm.rank or comm.recv(np.zeros(1), 1))


def test_the_first_error_ends_all_ranks_and_is_raised():
    def work(comm):
        if comm.rank == 1:
            raise KeyError("rank 1")
        comm.barrier()

    with pytest.raises(KeyError, match="rank 1"):
        run_threads(4, work)
    with pytest.raises(RuntimeError, match="rank 2 of 4 aborted with code 3"):
        run_threads(4, lambda comm: comm.abort(3) if comm.rank == 2 else comm.barrier())


@pytest.mark.parametrize(
    "array, peer, says",
    [
        (np.zeros(3), 0, "rank 0 of 2 has no other rank 0"),
        (np.zeros(3), 2, "rank 0 of 2 has no other rank 2"),
        (np.zeros(3), -1, "no other rank -1"),
        (np.zeros((3, 1)), 1, r"not one of \(3, 1\)"),
        (np.zeros(6)[::2], 1, "flat contiguous"),
    ],
)
def test_messages_that_make_no_sense(array, peer, says):
    for method in ("isend", "irecv"):
        with pytest.raises(ValueError, match=says):
            run_threads(2, lambda comm, m=method: comm.rank or getattr(comm, m)(array, peer))


def test_an_array_under_way_is_not_to_be_received_into():
    def beside(comm):
        array = np.full(8, comm.rank)
        first = comm.isend(array[:4], 1 - comm.rank)
        comm.recv(array[4:], 1 - comm.rank)
        first.wait()
        return array.tolist()

    assert run_threads(2, beside) == [[0] * 4 + [1] * 4, [1] * 4 + [0] * 4]

    def overlap(comm):
        array = np.zeros(8)
        comm.isend(array[:4], 1 - comm.rank)
        comm.irecv(array[3:7], 1 - comm.rank)

    with pytest.raises(ValueError, match="receives from .* array in use: rank . sends to"):
        run_threads(2, overlap)


def test_lengths_must_agree():
    def work(comm):
        if comm.rank:
            comm.recv(np.zeros(3), 0)
        else:
            comm.send(np.zeros(2), 1)

    with pytest.raises(ValueError, match="24 bytes"):
        run_threads(2, work)


def test_a_single_process_has_nobody_to_talk_to():
    comm = SingleProcess()
    comm.barrier()
    with pytest.raises(ValueError, match="no other rank"):
        comm.send(np.zeros(1), 0)
    assert on_root(comm, lambda: "here") == "here"
    assert global_count(comm, 2**62) == 2**62


def test_on_root_runs_once_and_tells_all():
    ran = []
    results = run_threads(
        3, lambda comm: on_root(comm, lambda: (ran.append(comm.rank), [1, None])[1])
    )
    assert results == [[1, None]] * 3 and ran == [0]


@pytest.mark.parametrize("refusal", [UserError("no such file"), SystemExit(0)])
def test_a_refusal_on_root_reaches_all(refusal):
    def refuse():
        raise refusal

    def work(comm):
        with pytest.raises(type(refusal)) as caught:
            on_root(comm, refuse)
        return caught.value.args

    assert run_threads(3, work) == [refusal.args] * 3


def test_another_error_on_root_ends_the_run():
    with pytest.raises(ZeroDivisionError):
        run_threads(3, lambda comm: on_root(comm, lambda: 1 / 0))


class FakeGPUArray:
    """What of a CuPy array a message needs, on the host."""

    def __init__(self, host):
        self.host, self.ndim, self.size, self.flags = host, host.ndim, host.size, host.flags
        self.nbytes, self.shape = host.nbytes, host.shape

    def view(self, dtype):
        return FakeGPUArray(self.host.view(dtype))

    def set(self, host):
        self.host[...] = host


def test_gpu_arrays_pass_through_host_memory(monkeypatch):
    class Cupy:
        ndarray, uint8 = FakeGPUArray, np.uint8
        asnumpy = staticmethod(lambda array: array.host.copy())

    monkeypatch.setitem(__import__("sys").modules, "cupy", Cupy)

    def talk(comm):
        array = FakeGPUArray(np.full(4, comm.rank + 1.0))
        if comm.rank == 0:
            comm.send(array, 1)
            comm.recv(array, 1)
        else:
            request = comm.irecv(FakeGPUArray(into := np.zeros(4)), 0)
            while not request.test():
                pass
            assert (into == 1).all()
            comm.send(array, 0)
        return array.host.tolist()

    assert run_threads(2, talk) == [[2.0] * 4, [2.0] * 4]
