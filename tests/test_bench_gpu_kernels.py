"""bench/gpu_kernels.py and gpu_measure.py without a GPU: shapes, draws, checks and timing of our
kernels, on the stand-in for CuPy and by the host's clock."""

import ctypes
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench import gpu_kernels, gpu_measure
from minillm.errors import UserError
from minillm.kernels.registry import KERNELS as REGISTERED
from minillm.kernels.registry import Kernel, declared
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import program
from tests import fake_cupy
from tests.bench_host import Clock, reduced
from tests.fake_cupy.array import adopt

ROOT = Path(__file__).parents[1]
KERNELS = declared()


# --- declarations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda k: k.name)
def test_the_shapes_for_a_gpu_make_inputs_and_have_a_cost(kernel):
    for shape in kernel.bench_gpu:
        args = kernel.drawn("float32", **reduced(shape))
        cost = kernel.cost(*args)
        assert cost.bytes > 0 and cost.flops >= 0
        kernel.implementation("reference")(*args)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda k: k.name)
def test_the_shapes_for_a_gpu_are_larger_than_its_cache(kernel):
    """So that a kernel's time is that of memory, whose rate it is held to: 2^24 elements or more
    are read and written, or it is all arithmetic."""
    sizes = [np.prod([v for v in flat(shape) if isinstance(v, int)]) for shape in kernel.bench_gpu]
    assert max(sizes) >= 1 << 24


def flat(shape):
    for value in shape.values():
        yield from value if isinstance(value, tuple) else (value,)


def test_shapes_for_a_gpu_are_those_of_a_cpu_where_none_are_named():
    same = dict(inputs=None, shapes=[], bench=[dict(n=1)], cost=None)
    try:
        assert Kernel("minillm.kernels.gelu", "_probe", "x (n,) -> y (n,)", **same).bench_gpu == [
            dict(n=1)
        ]
    finally:
        REGISTERED.pop("_probe", None)


def test_the_adapter_draws_what_numpy_draws():
    ours, numpys = gpu_kernels.Draws(np.random.default_rng(3)), np.random.default_rng(3)
    for rng_call in (
        lambda rng: rng.normal(0.5, 2.0, (3, 5)),
        lambda rng: rng.normal(size=7),
        lambda rng: rng.uniform(1e-4, 1e-2, 6),
        lambda rng: rng.integers(0, 9, 8),
        lambda rng: rng.integers(-64, 64, (2, 3)),
        lambda rng: rng.exponential(size=(2, 3)),
        lambda rng: rng.random(4),
    ):
        mine, theirs = rng_call(ours), rng_call(numpys)
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-15)


# --- timing ---------------------------------------------------------------------------------------


def test_calls_take_turns_on_the_inputs_and_the_median_is_theirs():
    clock, seen = Clock(), []

    def call(x):
        seen.append(x)
        time.sleep(0.002)

    timing = gpu_measure.time_calls(clock, call, [("a",), ("b",), ("c",)], seconds=0.03)
    timed = seen[2:]
    assert timed[:6] == ["a", "b", "c"] * 2 and timing.queued
    assert 0.002 <= timing.p20 <= timing.seconds <= timing.p80 < 0.1
    assert clock.spins * timing.calls // (clock.spins - 1) == len(timed)


def test_a_host_that_is_behind_is_told():
    clock = Clock()
    clock.happened = lambda event: True
    assert not gpu_measure.time_calls(clock, lambda: None, [()], seconds=0.01).queued


def test_a_slow_call_is_timed_once(monkeypatch):
    monkeypatch.setattr(gpu_measure, "TOO_LONG", 0.01)
    calls = []
    timing = gpu_measure.time_calls(Clock(), lambda: (calls.append(1), time.sleep(0.02)), [()])
    assert timing.calls == len(calls) == 1 and timing.seconds >= 0.02


def test_sets_of_inputs_outgrow_the_cache():
    assert gpu_measure.sets_needed(1 << 20, 60 << 20) == 64  # no more than that
    assert gpu_measure.sets_needed(30 << 20, 60 << 20) == 8
    assert gpu_measure.sets_needed(1 << 32, 60 << 20) == 2


@pytest.mark.skipif(not emulator.available(), reason="emulating GPU kernels needs g++")
def test_the_probes_can_be_launched():
    probes, unused = program(ROOT / "bench/gpu_probes.cu"), np.zeros(1, "uint32")
    probes.launch("nothing", "float32", 1, unused)
    probes.launch("nothing_of_eight", "float32", 1, *[unused] * 4, 1.0, 2.0, 3, 4)
    probes.launch("spin", "float32", 1, unused, 10**6)
    assert not unused.any()


# --- kernels, on the stand-in for CuPy ------------------------------------------------------------


@pytest.fixture
def gpu_stand_in(monkeypatch):
    """gpu_kernels on the stand-in, with tiny shapes; CUDA kernels run on the emulator."""
    with fake_cupy.installed():
        cupy = sys.modules["cupy"]
        rng = np.random.default_rng(0)

        def on_gpu(method):
            return lambda *args, **kwargs: adopt(np.asarray(method(*args, **kwargs)))

        names = ("standard_normal", "random", "uniform", "integers", "exponential")
        generator = SimpleNamespace(**{name: on_gpu(getattr(rng, name)) for name in names})
        pool = cupy.get_default_memory_pool()
        monkeypatch.setattr(type(pool), "free_all_blocks", lambda self: None, raising=False)
        pointer = type(cupy.zeros(1).data)
        memset = lambda self, value, size: ctypes.memset(self.ptr, value, size)  # noqa: E731
        monkeypatch.setattr(pointer, "memset", memset, raising=False)
        var = lambda self, axis: adopt(self._memory.var(axis))  # noqa: E731
        monkeypatch.setattr(cupy.ndarray, "var", var, raising=False)
        clock = Clock()
        clock.cupy, clock.rng = cupy, generator
        monkeypatch.setattr(gpu_kernels, "_gpu", lambda: clock)
        monkeypatch.setattr(gpu_kernels, "_l2_bytes", lambda cupy: 1 << 12)
        monkeypatch.setattr(gpu_measure, "BATCH", 1e-6)  # few calls: each is emulated
        gpu_kernels._case.clear()
        yield monkeypatch
        gpu_kernels._case.clear()


def job(kernel, name, dtype="float32"):
    return {"what": "kernel", "kernel": kernel, "case": 0, "dtype": dtype, "name": name}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda k: k.name)
def test_every_kernel_can_be_drawn_checked_and_timed(gpu_stand_in, kernel, dtype):
    gpu_stand_in.setattr(kernel, "bench_gpu", [reduced(kernel.bench_gpu[0])])
    gpu_stand_in.setattr(
        gpu_measure, "time_calls",
        lambda gpu, call, sets: (
            [call(*one) for one in sets[:2]], gpu_measure.Timing(1.0, 1.0, 1.0, 2, True)
        )[1],
    )  # fmt: skip
    steps = kernel.cuda_steps() if emulator.available() else []
    for name in ["reference", *steps[-1:]]:
        answer = gpu_kernels.run(job(kernel.name, name, dtype))
        assert "wrong" not in answer, answer
        assert answer["bytes"] > 0 and answer["max_error"] < 0.05


def test_a_wrong_result_is_told_and_timed_all_the_same(gpu_stand_in):
    kernel = KERNELS["softmax_forward"]
    gpu_stand_in.setattr(kernel, "bench_gpu", [dict(N=3, C=5)])
    right = kernel.implementation

    def wrong(name):
        xp = sys.modules["cupy"]
        return right(name) if name == "reference" else lambda x: xp.empty(x.shape, x.dtype)

    gpu_stand_in.setattr(kernel, "implementation", wrong)
    answer = gpu_kernels.run(job("softmax_forward", "v1_naive"))
    assert answer["wrong"].startswith("output 0: 15 of 15 outside") and answer["seconds"] > 0


def test_new_memory_is_poisoned_while_a_result_is_checked(gpu_stand_in):
    cupy = sys.modules["cupy"]
    make = cupy.empty
    with gpu_kernels.poisoned():
        for dtype in ("float32", "float64", "bfloat16"):
            assert np.isnan(cupy.empty((2, 3), dtype).get().astype(np.float64)).all()
        assert (cupy.empty_like(cupy.zeros(4, "int64")).get() == -1).all()
    assert cupy.empty is make


def test_checks_of_ids_are_left_out_while_timing():
    from minillm.kernels.embedding import reference

    kernel, check = KERNELS["embedding_forward"], reference.check_ids
    with gpu_kernels.unchecked(kernel):
        reference.check_ids(np.array([99]), 3)
    assert reference.check_ids is check
    with pytest.raises(UserError):
        check(np.array([99]), 3)


@pytest.mark.skipif(not emulator.available(), reason="emulating GPU kernels needs g++")
def test_limits_and_launches(gpu_stand_in):
    """All that gpu_measure asks of CuPy, on the stand-in: the best of what was tried is the limit,
    and a way of launching that is missing does not lose the others."""
    cupy, rng = sys.modules["cupy"], gpu_kernels._gpu().rng

    class Event:
        done = False

        def record(self):
            self.at = time.perf_counter()

    def copy(self, source, size):
        ctypes.memmove(self.ptr, source.ptr, size)

    def set_on(module, **names):
        for name, value in names.items():
            gpu_stand_in.setattr(module, name, value, raising=False)

    set_on(cupy, random=SimpleNamespace(default_rng=lambda seed: rng), dot=cupy.matmul)
    set_on(cupy.cuda, Event=Event, get_elapsed_time=lambda a, b: 1e3 * (b.at - a.at))
    set_on(type(cupy.zeros(1).data), copy_from_device_async=copy)
    gpu = gpu_measure.CuPyGPU()
    found = gpu_measure.limits(gpu, [1], [8, 16])
    assert {one["way"] for one in found["copies"]} == {"cudaMemcpy", "kernel"}
    assert found["copy"] == max(one["bytes_per_second"] for one in found["copies"])
    assert found["gemm"].keys() == {"bfloat16", "float32"} and len(found["products"]) == 4
    launched = gpu_measure.launches(gpu, 2)
    assert launched["Program.launch, 8 arguments"]["host_us"] > 0
    assert "RawKernel" in launched["cupy.RawKernel, 1 argument"]
