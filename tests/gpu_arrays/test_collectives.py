"""Collectives of arrays on a GPU (the stand-in): values, waits, copies beside the messages."""

import inspect

import ml_dtypes
import numpy as np
import pytest

from minillm.distributed import (
    all_gather,
    all_reduce,
    broadcast,
    chunk,
    doubling,
    reduce,
    reduce_scatter,
    reduction,
    run_threads,
    staging,
)
from minillm.distributed.allreduce import ALGORITHMS
from minillm.distributed.steps import Progress
from minillm.distributed.threads import ThreadCommunicator
from tests import fake_cupy
from tests.fake_cupy import array as fake
from tests.fake_cupy import streams


@pytest.fixture(params=["staged", "aware"])
def gpu(request, monkeypatch):
    """A machine with a stand-in GPU; messages take its arrays as they are, or not."""
    if request.param == "aware":
        for name in ("_isend", "_irecv"):
            post = getattr(ThreadCommunicator, name)

            def on_gpu(self, data, peer, tag, post=post):
                memory = data._memory if isinstance(data, fake.ndarray) else data
                return post(self, memory, peer, tag)

            monkeypatch.setattr(ThreadCommunicator, name, on_gpu)
        monkeypatch.setattr(ThreadCommunicator, "gpu_aware", True)
    yield from _installed(monkeypatch)


@pytest.fixture
def staged(monkeypatch):
    yield from _installed(monkeypatch)


def _installed(monkeypatch):
    monkeypatch.setattr(reduction, "PIECE_BYTES", 64)
    monkeypatch.setattr(doubling, "KEPT_BYTES", 64)
    with fake_cupy.installed():
        import cupy

        yield cupy


def inputs(n, size, dtype=np.float32):
    rng = np.random.default_rng((n, size))
    return [(4 * rng.standard_normal(n)).astype(dtype) for _ in range(size)]


def everything(comm, each, algorithm, put, get):
    """All collectives one after another; the bytes that each leaves this rank, where defined."""
    left = []
    for op in ("sum", "mean", "max", "min"):
        array = put(each[comm.rank])
        all_reduce(comm, array, op, algorithm)
        left.append(array)
    parts, gathered = put(each[comm.rank]), put(each[comm.rank])
    left += [reduce_scatter(comm, parts, "mean"), gathered]
    all_gather(comm, gathered)
    root = comm.size - 1
    array, shared = put(each[comm.rank]), put(each[comm.rank])
    reduce(comm, array, "max", root)
    broadcast(comm, shared, root)
    left += [array] * (comm.rank == root) + [shared]
    return [get(array).tobytes() for array in left]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_same_bits_as_arrays_on_the_host(gpu, algorithm, size):
    for n, dtype in ((0, np.float32), (1, np.float64), (7, np.float32), (501, np.float32),
                     (300, ml_dtypes.bfloat16)):  # fmt: skip
        each = inputs(n, size, dtype)

        def work(comm, put, get, each=each):
            comm.host_of = [rank // 2 for rank in range(size)]
            return everything(comm, each, algorithm, put, get)

        there = run_threads(size, lambda comm: work(comm, gpu.asarray, gpu.asnumpy))
        assert there == run_threads(size, lambda comm: work(comm, np.copy, np.copy))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_many_under_way_at_once(gpu, algorithm):
    def work(comm):
        rng, progress = np.random.default_rng(comm.rank), Progress()
        arrays = [gpu.asarray(np.full(41 * i + 1, 1.0 + comm.rank + i)) for i in range(6)]
        for tag, array in enumerate(arrays):
            progress.start(all_reduce.steps(comm, array, "sum", algorithm, tag))
            for _ in range(rng.integers(4)):
                progress.poll()
        progress.wait()
        assert all((array.get() == 6.0 + 3 * i).all() for i, array in enumerate(arrays))

    run_threads(3, work)


def stream_of(comm):
    return staging._streams[comm]


def test_copies_run_beside_the_messages(staged, monkeypatch):
    """The first piece leaves while others are still to come; sums go back before all is sent."""
    n, size, left, back = 16 * 60, 3, {}, {}
    isend = ThreadCommunicator._isend

    def noting(self, data, dest, tag):
        if tag == 0:  # no barrier's
            stream = stream_of(self)
            left.setdefault(self.rank, len(stream.queue))
            back[self.rank] = stream.log.count("set")  # at the last message
        return isend(self, data, dest, tag)

    monkeypatch.setattr(ThreadCommunicator, "_isend", noting)
    arrays = inputs(n, size)

    def work(comm):
        array, before = staged.asarray(arrays[comm.rank]), fake_cupy.waits()
        comm.barrier()
        all_reduce(comm, array, algorithm="ring")
        comm.barrier()
        assert fake_cupy.waits() == before  # for copies alone, never for the whole GPU
        assert stream_of(comm).log[0] == "wait"  # for the kernels that make the array
        comm.barrier()  # others have not begun to wait for theirs below
        return array.get()

    results = run_threads(size, work)
    pieces = n * 4 // 64
    assert all(count > pieces for count in left.values())  # each of them a copy and an event
    assert all(count >= pieces // 2 for count in back.values())
    np.testing.assert_allclose(results[0], sum(arrays), rtol=1e-5, atol=1e-5)


def copied(comm, before=0):
    """Elements copied to the host and back."""
    return [stream_of(comm).log[before:].count(what) for what in ("get", "set")]


def test_only_what_is_needed_is_copied(staged):
    n, size = 16 * 40, 4  # 40 pieces, 10 a rank

    def work(comm):
        array = staged.asarray(inputs(n, size)[comm.rank])
        reduce_scatter(comm, array)
        first, at = copied(comm), len(stream_of(comm).log)
        all_gather(comm, array)
        return first, copied(comm, at), array.get().tobytes()

    results = run_threads(size, work)
    assert all(there == [40, 10] and back == [10, 31] for there, back, _ in results), results
    assert len({whole for *_, whole in results}) == 1


def test_pinned_memory_is_kept_while_copies_use_it():
    stream, array = streams.Stream(non_blocking=True), fake.adopt(np.arange(3.0))
    array.set(np.frombuffer(streams.alloc_pinned_memory(24), np.float64, 3), stream=stream)
    with pytest.raises(AssertionError, match="given back"):  # so it would in all tests above
        stream.synchronize()


def test_an_array_may_be_as_short_as_the_ranks_are_many(staged):
    def work(comm):
        array = staged.asarray(np.arange(3.0))
        for _ in range(2):
            all_reduce(comm, array, algorithm="ring")
        return array.get().tolist(), chunk(comm, array).size

    assert {size for _, size in run_threads(5, work)} == {0, 1}
    assert run_threads(5, work)[0][0] == [0.0, 25.0, 50.0]


def test_work_on_a_stream_is_late_until_it_is_waited_for():
    block = streams.alloc_pinned_memory(24)
    host, stream = np.frombuffer(block, np.float64, 3), streams.Stream(non_blocking=True)
    array = fake.adopt(np.arange(3.0))
    array.get(stream=stream, out=host, blocking=False)
    event = stream.record()
    assert host[1] != 1 and not event.done
    event.synchronize()
    assert host.tolist() == [0, 1, 2] and event.done and stream.done
    with pytest.raises(AssertionError, match="pinned"):
        array.get(stream=stream, out=np.empty(3), blocking=False)


@pytest.mark.parametrize("ours, name", [
    (kind, name) for kind in (streams.Stream, streams.Event) for name in vars(kind)
    if name[0] != "_" and name not in ("add", "copy", "run", "happen")
])  # fmt: skip
def test_cupy_has_it_with_these_parameters(ours, name):
    cuda = pytest.importorskip("cupy", reason="CuPy is not installed").cuda
    theirs = getattr(cuda, ours.__name__)
    assert inspect.signature(ours) == inspect.signature(theirs)
    if inspect.isfunction(getattr(ours, name)):
        want = inspect.signature(getattr(theirs, name))
        assert str(inspect.signature(getattr(ours, name))) == str(want)
    else:
        assert hasattr(theirs, name)
