"""The GPU launch against a stand-in for libcuda, through real ctypes, and a stand-in for CuPy:
exactly which calls are made, once or each time, and what becomes of errors. The last test runs
where there is a GPU."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minillm.kernels.runtime import gpu, nvrtc

PATH = Path("/somewhere/layer_norm/v2_warp.cu")
FORWARD = "layer_norm_forward<float>"
HANDLE = 0x7F00_1234_5670  # more than 32 bits, as real ones


class FakeDriver:
    """libcuda's functions as C function pointers: what they were called with, what they answer."""

    def __init__(self):
        pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
        out = ctypes.POINTER(number)
        text = ctypes.POINTER(ctypes.c_char_p)
        self.launches, self.attributes, self.answers, self.static = [], [], [], 0
        self._texts = {}
        make = ctypes.CFUNCTYPE
        self.cuLaunchKernel = make(number, pointer, *[size] * 7, *[pointer] * 3)(self._launch)
        self.cuFuncGetAttribute = make(number, out, number, pointer)(self._get)
        self.cuFuncSetAttribute = make(number, pointer, number, number)(self._set)
        self.cuGetErrorName = make(number, number, text)(lambda e, t: self._say(t, "CUDA_ERROR_X"))
        self.cuGetErrorString = make(number, number, text)(lambda e, t: self._say(t, "some words"))

    def _launch(self, *args):
        self.launches.append(args)
        return self.answers.pop(0) if self.answers else 0

    def _get(self, out, attribute, function):
        out[0] = {1: self.static}[attribute]
        return 0

    def _set(self, *args):
        self.attributes.append(args)
        return self.answers.pop(0) if self.answers else 0

    def _say(self, out, words):
        out[0] = self._texts.setdefault(words, words.encode())
        return 0


class FakeCupy:
    """As much of CuPy as a launch uses."""

    def __init__(self):
        self.device, self.stream, self.loaded, self.unloaded, self.bound = 0, 0, [], [], []
        fake = self

        class Module:
            def load(self, image):
                fake.loaded.append((fake.device, image))

            def get_function(self, name):
                return SimpleNamespace(ptr=HANDLE + len(fake.loaded), name=name)

            def __del__(self):
                fake.unloaded.append(self)

        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDevice=lambda: self.device, free=self.bound.append),
            function=SimpleNamespace(Module=Module),
            get_current_stream=lambda: SimpleNamespace(ptr=self.stream),
            Device=lambda: SimpleNamespace(compute_capability=["90", "80"][self.device]),
        )


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


@pytest.fixture
def driver(cupy, monkeypatch):
    fake = FakeDriver()
    opened = SimpleNamespace(**{**vars(ctypes), "CDLL": {"libcuda.so.1": fake}.__getitem__})
    monkeypatch.setattr(gpu, "ctypes", opened)
    monkeypatch.setattr(gpu, "_kernels", {})
    monkeypatch.setattr(gpu, "_of_parent", [])
    gpu._driver.cache_clear()
    yield fake
    gpu._driver.cache_clear()


@pytest.fixture
def compiled(monkeypatch):
    """The arguments of each compilation."""
    calls = []

    def compile(path, expressions, arch):
        calls.append((path, expressions, arch))
        return nvrtc.Cubin(b"\x7fELF", {e: f"_Z_{e}" for e in expressions})

    monkeypatch.setattr(gpu.nvrtc, "compile", compile)
    return calls


def test_arguments_of_a_launch(driver, cupy, compiled):
    cupy.stream = 0x5555_AAAA_0010
    number, array = ctypes.c_int(7), ctypes.c_void_p(0x7FFF_0000_0200)
    arguments = (ctypes.c_void_p * 2)(ctypes.addressof(number), ctypes.addressof(array))
    address = ctypes.addressof(arguments)
    gpu.launch(PATH, FORWARD, (3, 2, 1), (256, 1, 1), address, 1024)
    assert compiled == [(PATH, (FORWARD,), "sm_90a")]
    assert cupy.loaded == [(0, b"\x7fELF")]
    (launched,) = driver.launches
    assert launched == (HANDLE + 1, 3, 2, 1, 256, 1, 1, 1024, cupy.stream, address, None)
    first = ctypes.c_void_p.from_address(launched[9]).value
    assert ctypes.c_int.from_address(first).value == 7


STUB = """
extern "C" unsigned long long seen[11] = {};
extern "C" int cuLaunchKernel(
    void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
    unsigned shared, void* stream, void** arguments, void** extra) {
    unsigned long long now[] = {(unsigned long long)f, gx, gy, gz, bx, by, bz, shared,
        (unsigned long long)stream, (unsigned long long)arguments, (unsigned long long)extra};
    for (int i = 0; i < 11; i++) seen[i] = now[i];
    return 0;
}
extern "C" int cuFuncGetAttribute(int* out, int, void*) { *out = 0; return 0; }
extern "C" int cuFuncSetAttribute(void*, int, int) { return 0; }
extern "C" int cuGetErrorName(int, const char**) { return 0; }
extern "C" int cuGetErrorString(int, const char**) { return 0; }
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_arguments_of_a_launch_in_c(driver, cupy, compiled, tmp_path, monkeypatch):
    (tmp_path / "stub.cpp").write_text(STUB)
    command = ["g++", "-shared", "-fPIC", "-o", tmp_path / "stub.so", tmp_path / "stub.cpp"]
    subprocess.run(command, check=True)
    stub = ctypes.CDLL(str(tmp_path / "stub.so"))  # untyped: the types are to be gpu.py's
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: stub)
    cupy.stream = 0x5555_AAAA_0010
    gpu.launch(PATH, FORWARD, (2**31 - 1, 2, 3), (4, 5, 6), 0x7FFE_DDDD_0020, 7)
    seen = (ctypes.c_ulonglong * 11).in_dll(stub, "seen")
    assert [*seen] == [
        HANDLE + 1, 2**31 - 1, 2, 3, 4, 5, 6, 7, 0x5555_AAAA_0010, 0x7FFE_DDDD_0020, 0,
    ]  # fmt: skip


def test_largest_grid(driver, cupy, compiled):
    gpu.launch(PATH, FORWARD, (2**31 - 1, 65535, 65535), (1024, 1, 1), 64)
    assert driver.launches[0][1:4] == (2**31 - 1, 65535, 65535)
    assert driver.launches[0][7:9] == (0, None)  # no shared memory; the legacy stream


def test_compiled_and_loaded_once_for_each_device_and_kernel(driver, cupy, compiled):
    for _ in range(3):
        gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64)
    gpu.launch(PATH, "layer_norm_forward<bf16>", (1, 1, 1), (32, 1, 1), 64)
    cupy.device = 1
    for _ in range(2):
        gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64)
    assert [(e, arch) for _, (e,), arch in compiled] == [
        (FORWARD, "sm_90a"), ("layer_norm_forward<bf16>", "sm_90a"), (FORWARD, "sm_80"),
    ]  # fmt: skip
    handles = [launched[0] - HANDLE for launched in driver.launches]
    assert handles == [1, 1, 1, 2, 3, 3]
    gc.collect()
    assert not cupy.unloaded  # a module that were collected would take its kernels along


def test_stream_is_asked_for_at_each_launch(driver, cupy, compiled):
    for stream in (16, 32, 0):
        cupy.stream = stream
        gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64)
    assert [launched[8] for launched in driver.launches] == [16, 32, None]


def test_dynamic_shared_memory_beyond_48_kb(driver, cupy, compiled):
    driver.static = 1024
    for size in (47 << 10, (47 << 10) + 1, 100, 64 << 10, 64 << 10, 50 << 10):
        gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64, size)
    assert driver.attributes == [(HANDLE + 1, 8, (47 << 10) + 1), (HANDLE + 1, 8, 64 << 10)]
    assert [launched[7] >> 10 for launched in driver.launches] == [47, 47, 0, 64, 64, 50]


def test_too_much_shared_memory(driver, cupy, compiled):
    driver.answers = [1]
    with pytest.raises(RuntimeError, match=r"v2_warp.cu, 300000 bytes of dynamic shared .*words"):
        gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64, 300_000)
    assert not driver.launches
    driver.answers = [1]
    with pytest.raises(RuntimeError):  # a size that was refused is not taken for allowed
        gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64, 300_000)


@pytest.mark.parametrize("status, earlier", [(1, False), (701, False), (700, True), (719, True)])
def test_error_names_kernel_and_geometry(driver, cupy, compiled, status, earlier):
    driver.answers = [status]
    with pytest.raises(RuntimeError) as caught:
        gpu.launch(PATH, FORWARD, (7, 1, 1), (2048, 1, 1), 64, 12)
    text = str(caught.value)
    assert text.startswith(
        "kernel layer_norm_forward<float> of v2_warp.cu, grid (7, 1, 1), block (2048, 1, 1), 12"
        f" bytes of dynamic shared memory: some words (CUDA_ERROR_X, {status})"
    )
    assert ("earlier kernel" in text) == earlier
    gpu.launch(PATH, FORWARD, (7, 1, 1), (32, 1, 1), 64)  # one bad launch leaves the next alone


def test_thread_that_never_used_the_device(driver, cupy, compiled):
    gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64)
    driver.answers = [201]  # CUDA_ERROR_INVALID_CONTEXT
    run = threading.Thread(target=gpu.launch, args=(PATH, FORWARD, (5, 1, 1), (32, 1, 1), 64))
    run.start()
    run.join()
    assert cupy.bound == [0] and [launched[1] for launched in driver.launches] == [1, 5, 5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_after_a_fork(driver, cupy, compiled):
    gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "launched"
        try:
            gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64)
        except RuntimeError as error:
            said = str(error)
        gc.collect()
        os.write(writing, f"{said}; {len(driver.launches)} {len(cupy.unloaded)}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert "does not survive a fork" in said and "spawn" in said
    assert said.endswith("; 1 0")  # neither launched nor unloaded what is the parent's
    gpu.launch(PATH, FORWARD, (1, 1, 1), (32, 1, 1), 64)
    assert len(driver.launches) == 2 and len(compiled) == 1  # the parent goes on as before


def test_numbers_are_those_of_cuda():
    cuda = pytest.importorskip("cuda.bindings.driver")
    attribute, result = cuda.CUfunction_attribute, cuda.CUresult
    assert attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES == gpu._SHARED_SIZE_BYTES
    wanted = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert wanted == gpu._MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert result.CUDA_ERROR_INVALID_CONTEXT == gpu._INVALID_CONTEXT
    assert result.CUDA_ERROR_ILLEGAL_ADDRESS == gpu._ILLEGAL_ADDRESS
    assert result.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES == gpu._OUT_OF_RESOURCES


def test_cupy_has_what_is_used():
    cupy = pytest.importorskip("cupy")
    function = cupy.cuda.function
    assert {"load", "get_function"} <= set(dir(function.Module)) and hasattr(
        function.Function, "ptr"
    )
    assert callable(cupy.cuda.runtime.getDevice) and callable(cupy.cuda.runtime.free)
    assert callable(cupy.cuda.get_current_stream) and hasattr(cupy.cuda.Stream.null, "ptr")
    assert hasattr(cupy.cuda.Device, "compute_capability")


def test_on_a_gpu(tmp_path):
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU")
    path = tmp_path / "v1_axpy.cu"
    path.write_text("""template <typename T> __global__ void axpy(T* y, const T* x, T a, int n) {
        extern __shared__ char room[];
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        reinterpret_cast<T*>(room)[threadIdx.x] = a;
        if (i < n) y[i] += reinterpret_cast<T*>(room)[threadIdx.x] * x[i];
    }""")
    n = 1000
    x, y = cupy.arange(n, dtype=np.float32), cupy.ones(n, np.float32)
    values = [ctypes.c_void_p(a.data.ptr) for a in (y, x)] + [ctypes.c_float(3), ctypes.c_int(n)]
    arguments = (ctypes.c_void_p * 4)(*map(ctypes.addressof, values))
    for shared in (1024, 64 << 10):
        with cupy.cuda.Stream() as stream:
            gpu.launch(
                path, "axpy<float>", (4, 1, 1), (256, 1, 1), ctypes.addressof(arguments), shared
            )
            stream.synchronize()
    np.testing.assert_array_equal(y.get(), 1 + 6 * np.arange(n, dtype=np.float32))
