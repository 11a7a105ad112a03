"""The Numba CUDA kernels beside the generic test: strided inputs, the simulator, a GPU's code."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.attention import numba_gpu as attention
from minillm.kernels.cross_entropy import numba_gpu as cross_entropy
from minillm.kernels.embedding import numba_gpu as embedding
from minillm.kernels.gelu import numba_gpu as gelu
from minillm.kernels.instrument import compare
from minillm.kernels.matmul import matmul
from minillm.kernels.matmul import numba_gpu as product
from minillm.kernels.registry import declared
from minillm.kernels.runtime import emulator, numba_gpu
from minillm.kernels.softmax import numba_gpu as softmax

needs_compiler = pytest.mark.skipif(not emulator.available(), reason="no C++ compiler")
KERNELS = [k for k in declared().values() if "numba_gpu" in k.implementations()]


@needs_compiler
def test_attention_takes_heads_cut_from_one_projection():
    rng = np.random.default_rng(0)
    cut = [
        rng.normal(size=(2, t, h, 40)).astype(np.float32) for t, h in ((45, 4), (70, 2), (70, 2))
    ]
    q, k, v = (x[..., :20].transpose(0, 2, 1, 3) for x in cut)
    results = []
    for arrays in ((q, k, v), tuple(x.copy() for x in (q, k, v))):
        out, lse = attention.attention_forward(*arrays, 0.2, True)
        grads = attention.attention_backward(out, *arrays, out, lse, 0.2, True)
        results.append((out, lse, *grads))
        assert all(x.transpose(0, 2, 1, 3).flags.c_contiguous for x in (out, *grads))
    for strided, plain in zip(*results):
        np.testing.assert_array_equal(strided, plain)


@needs_compiler
def test_matmul_takes_views():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 3, 70, 33)).astype(np.float32).swapaxes(-1, -2)
    b = rng.normal(size=(3, 140, 17)).astype(np.float32)[:, ::2]
    compare(matmul, "numba_gpu", [product.matmul(a, b)], [np.float64(a) @ np.float64(b)])


@needs_compiler
def test_masked_scores_and_rows_without_any():
    x = np.array([[0, -np.inf, 1], [-np.inf] * 3, [np.nan, 0, 0]], np.float32)
    y = softmax.softmax_forward(x)
    np.testing.assert_allclose(y[0], [1 / (1 + np.e), 0, np.e / (1 + np.e)], rtol=1e-6)
    assert np.isnan(y[1:]).all()


@needs_compiler
def test_a_target_of_no_probability_costs_everything_and_others_nothing_new():
    x, targets = np.array([[0, -np.inf]] * 2, np.float32), np.array([0, 1])
    losses = cross_entropy.cross_entropy_forward(x, targets, -100, 0.0)
    np.testing.assert_array_equal(losses, [0, np.inf])


@needs_compiler
@pytest.mark.parametrize("tanh", [False, True])
def test_gelu_far_from_zero(tanh):
    x = np.array([-1e30, -60, 60, 1e30, np.nan], np.float32)
    dx = gelu.gelu_backward(np.ones_like(x), x, tanh)
    np.testing.assert_array_equal(gelu.gelu_forward(x, tanh)[:4], [0, 0, 60, np.float32(1e30)])
    np.testing.assert_array_equal(dx[:4], [0, 0, 1, 1])
    assert np.isnan(dx[4])


def test_ids_and_targets_are_checked_before_they_are_addresses():
    table, bad = np.zeros((5, 3), np.float32), np.array([0, 5])
    with pytest.raises(UserError, match="id 5 is outside"):
        embedding.embedding_forward(table, bad)
    with pytest.raises(UserError, match="id 5 is outside"):
        embedding.embedding_backward(table[:2], bad, 5)
    with pytest.raises(UserError, match="target 5"):
        cross_entropy.cross_entropy_forward(table[:2], bad, -100, 0.0)
    with pytest.raises(UserError, match="target 5"):
        cross_entropy.cross_entropy_forward_backward(table[:2], bad, -100, 0.0, False)


# Blocks of 8 threads, since the simulator starts a thread of the system for each; a small shape.
SIMULATED = """
import importlib
import numpy as np
from minillm.kernels.runtime import numba_blocks
numba_blocks.THREADS, numba_blocks.blocks.__defaults__ = 8, (8,)
from minillm.kernels.instrument import compare, outputs
from minillm.kernels.registry import declared
from minillm.kernels.runtime.numba_gpu import cuda, kernel

for declaration in declared().values():
    if "numba_gpu" in declaration.implementations():
        module = importlib.import_module(f"{declaration.package}.numba_gpu")
        args, same = (declaration.drawn("float32", **declaration.shapes[1]) for _ in range(2))
        got = outputs(declaration, getattr(module, declaration.name)(*args), args)
        want = outputs(declaration, declaration.implementation("reference")(*same), same)
        compare(declaration, "simulator", got, want)
        print(declaration.name)

@kernel
def with_a_shuffle(x):
    x[0] = cuda.shfl_xor_sync(0xFFFFFFFF, x[0], 1)

try:
    with_a_shuffle[1, 1](np.zeros(1, np.float32))
except ValueError as error:
    print(error)
"""


def test_the_kernels_run_on_numbas_simulator():
    env = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED], env=env, capture_output=True, text=True, timeout=120,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *names, error = done.stdout.splitlines()
    assert sorted(names) == sorted(k.name for k in KERNELS)
    assert "cuda.shfl_xor_sync: Numba's simulator does not have it" in error


def launches(kernel):
    """(Numba kernel, its arguments) of one call, without running anything."""
    module, found = importlib.import_module(f"{kernel.package}.numba_gpu"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_gpu.Kernel, "_launch", lambda k, g, b, *args: found.append((k, args)))
        getattr(module, kernel.name)(*kernel.drawn("float32", **kernel.shapes[-1]))
    return found


@pytest.fixture
def numba_cuda(monkeypatch):
    """The module numba.cuda of numba-cuda, made to believe in a Hopper GPU."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    pathfinder = pytest.importorskip("cuda.pathfinder")
    for library in ("nvvm", "nvrtc"):
        try:
            pathfinder.load_nvidia_dynamic_lib(library)
        except pathfinder.DynamicLibNotFoundError:
            pytest.skip(f"lib{library} is not installed")
    module = numba_gpu._numba_cuda()
    hopper = SimpleNamespace(compute_capability=(9, 0))
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: hopper)
    return module


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_numba_cuda_compiles_it_and_nothing_is_float64(kernel, numba_cuda):
    from numba import typeof

    for launched, args in launches(kernel):
        types = tuple(typeof(np.float32(a) if isinstance(a, float) else a) for a in args)
        function = numba_gpu._bound(launched.function, numba_cuda, "gpu")
        ptx = numba_cuda.compile_ptx(function, types, cc=(9, 0))[0]
        assert ".target sm_90" in ptx
        wide = [line for line in ptx.splitlines() if ".f64" in line and ".reg" not in line]
        assert not wide or kernel.name == "sum_of_squares", wide
