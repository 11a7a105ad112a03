"""Ranks with arrays on GPUs: which GPU each takes, and sums over ranks through host memory."""

import socket

import ml_dtypes
import numpy as np
import pytest

from minillm.distributed import (
    DistributedDataParallel,
    SingleProcess,
    all_gather,
    all_reduce,
    broadcast,
    chunk,
    reduce_scatter,
    run_threads,
    take_gpu,
)
from minillm.optim.flat import FlatGroup
from minillm.tensor import Tensor
from tests import fake_cupy
from tests.fake_cupy import GPU


@pytest.mark.parametrize(
    "gpus, ranks, devices, limits",
    [
        (1, 1, "", {}),
        (2, 2, "0, 1", {}),
        (4, 3, "0, 1, 2", {}),
        (1, 2, "0, 0", {0: 1 / 2}),
        (2, 4, "0, 1, 0, 1", {0: 1 / 2, 1: 1 / 2}),
        (2, 3, "0, 1, 0", {0: 1 / 2}),
    ],
)
def test_each_rank_takes_the_next_gpu(gpus, ranks, devices, limits):
    with fake_cupy.installed(gpus):
        words = run_threads(ranks, lambda comm: (take_gpu(comm), GPU.chosen.current))
        assert GPU.limits == limits
    assert all(w.startswith("Stand-in GPU") and devices in w for w, _ in words)
    assert ", ".join(str(device) for _, device in words) in (devices, "0")
    assert [("share" in w) for w, _ in words] == [d in limits for _, d in words]


def test_ranks_of_another_machine_do_not_count(monkeypatch):
    """Ranks 0 and 1 are on one machine, 2 and 3 on another, with two GPUs each."""
    import threading

    def name():
        return f"machine-{int(threading.current_thread().name.split()[1]) // 2}"

    monkeypatch.setattr(socket, "gethostname", name)
    with fake_cupy.installed(2):
        words = run_threads(4, take_gpu)
        assert not GPU.limits
    assert all(w.endswith("of ranks 0 to 3: 0, 1, 0, 1") for w in words)


def test_ranks_that_are_shown_one_gpu_each_do_not_share(monkeypatch):
    """As Slurm does it: every rank sees one GPU, number 0, and it is another one each time."""
    import threading

    bus = property(lambda self: threading.current_thread().name)
    monkeypatch.setattr(fake_cupy.Device, "pci_bus_id", bus)
    with fake_cupy.installed(1):
        words = run_threads(2, take_gpu)
        assert not GPU.limits and all("share" not in w for w in words)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_collectives_give_the_bits_of_the_host(n, dtype, capsys):
    def work(comm, put, get):
        out = []
        for collective in (all_reduce, reduce_scatter, all_gather, broadcast):
            array = put(np.random.default_rng((n, comm.rank)).normal(size=n).astype(dtype))
            result = collective(comm, array)
            if collective is reduce_scatter:
                assert (
                    result.base is array
                    and get(result).tobytes() == get(chunk(comm, array)).tobytes()
                )
                out.append(get(result))
            else:
                out.append(get(array))
        return out

    with fake_cupy.installed():
        import cupy

        there = run_threads(3, lambda comm: work(comm, cupy.asarray, cupy.asnumpy))
    here = run_threads(3, lambda comm: work(comm, np.copy, np.copy))
    for a, b in zip(sum(there, []), sum(here, [])):
        assert isinstance(a, np.ndarray) and a.tobytes() == b.tobytes()


def test_messages_carry_arrays_of_a_gpu():
    def work(comm):
        import cupy

        array, into = cupy.full(5, comm.rank, np.float32), cupy.empty(5, np.float32)
        comm.sendrecv(array, 1 - comm.rank, into, 1 - comm.rank)
        with pytest.raises(ValueError, match="flat contiguous"):
            comm.send(into[::2], 1 - comm.rank)
        return into.get().tolist()

    with fake_cupy.installed():
        assert run_threads(2, work) == [[1.0] * 5, [0.0] * 5]


def _train(comm, device):
    """Parameters after 3 steps of gradient descent on unequal shares of 5 samples."""
    rng = np.random.default_rng(0)
    w, b = (Tensor(rng.normal(size=s), device=device).requires_grad_() for s in ((3, 4), (4,)))
    never = Tensor(np.ones(2), device=device).requires_grad_()
    groups = [FlatGroup([w, b, never])]
    ddp = DistributedDataParallel(comm, groups, bucket_bytes=8)
    for step in range(3):
        x = np.random.default_rng((1, step)).normal(size=(5, 3))
        mine = x[comm.rank * 5 // comm.size : (comm.rank + 1) * 5 // comm.size]
        with ddp.no_sync():
            (((Tensor(mine[:1], device=device) @ w + b).tanh() ** 2).sum() / 5).backward()
        (((Tensor(mine[1:], device=device) @ w + b).tanh() ** 2).sum() / 5).backward()
        ddp.finish()
        groups[0].data -= 0.1 * groups[0].grad
        groups[0].changed()
        groups[0].zero_grad()
    return np.concatenate([p.numpy().ravel() for p in (w.detach(), b.detach())])


def test_data_parallel_training_is_that_of_one_process():
    want = _train(SingleProcess(), "cpu")
    with fake_cupy.installed():
        got = run_threads(2, lambda comm: _train(comm, "cuda"))
    assert got[0].tobytes() == got[1].tobytes()
    np.testing.assert_allclose(got[0], want, rtol=1e-12)
