"""What a Program reads of a .cu file, and what its launches refuse, in one line each."""

import ctypes

import ml_dtypes  # noqa: F401  (registers bfloat16)
import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import Program, Strided

needs_compiler = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
X = np.zeros(4, np.float32)


def program(folder, parameters, body="", before="", kernel="template <typename T> __global__ void"):
    path = folder / "planted.cu"
    path.write_text(
        f'#include "types.cuh"\nconstexpr int THREADS = 1;\n{before}\n'
        f"{kernel} k({parameters}) {{ {body} }}\n"
    )
    return Program(path)


@pytest.mark.parametrize(
    ("written", "name", "kind", "pointer", "writable"),
    [
        ("T* x", "x", "T", True, True),
        ("T*x", "x", "T", True, True),
        ("const T *x", "x", "T", True, False),
        ("T const* x", "x", "T", True, False),
        ("T const *__restrict__ x", "x", "T", True, False),
        ("T* const x", "x", "T", True, True),
        ("const accum<T>* __restrict__ x", "x", "accum<T>", True, False),
        ("unsigned  long\n  long key", "key", "unsigned long long", False, False),
        ("/* how many, */ int n // of them,\n", "n", "int", False, False),
        ("const __grid_constant__ Sizes at", "at", "Sizes", False, False),
    ],
)
def test_parameters(tmp_path, written, name, kind, pointer, writable):
    found = program(tmp_path, f"int first, {written}, accum<T> last").kernels["k"].parameters
    assert found[1] == (name, kind, pointer, writable) and len(found) == 3


@pytest.mark.parametrize("written", ["T** x", "T& x", "T x[]", "int", "int n = 3", "void"])
def test_parameters_that_cannot_be_read(tmp_path, written):
    with pytest.raises(UserError, match="planted.cu: cannot read the parameter `.*` of k$"):
        program(tmp_path, written)


@pytest.mark.parametrize(
    "kernel",
    ["template <typename T> __global__ __launch_bounds__(32) void", "__global__ static void"],
)
def test_kernels_that_cannot_be_read(tmp_path, kernel):
    with pytest.raises(UserError, match="planted.cu: cannot read the kernel `__global__ "):
        program(tmp_path, "int n", kernel=kernel)


def test_constants(tmp_path):
    before = "constexpr int A = 3, B = (A + 1) * 8 / 5;\nconstexpr int C = 1 << 4;\n"
    before += "constexpr int D = max(A, B);\nconstexpr int E = sizeof(float);\n"
    made = program(tmp_path, "int n", before=before)
    assert made.constants == {"THREADS": 1, "A": 3, "B": 6, "C": 16}
    with pytest.raises(AttributeError, match="no `constexpr int D = ...;`"):
        made.D  # noqa: B018


class Sizes(ctypes.Structure):
    _fields_ = [("n", ctypes.c_int), ("x", ctypes.c_double)]


class Other(ctypes.Structure):
    _fields_ = Sizes._fields_


class Long(ctypes.Structure):
    _fields_ = [("n", ctypes.c_int * 17)]


READ_ONLY = np.zeros(4, np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("parameter", "value", "complaint"),
    [
        ("T* x", 3, "x takes an array, not 3"),
        ("T* x", np.float32(3), "x takes an array, not np.float32"),
        ("T* x", [1.0], r"x takes an array, not \[1.0\]"),
        ("T* x", X.astype("f8"), "x takes float32, not float64"),
        ("T* x", X.astype(">f4"), "x takes float32, not >f4"),
        ("const long long* x", X, "x takes int64, not float32"),
        ("T* x", X[::2], "x must be contiguous"),
        ("T* x", X[::-1], "x must be contiguous"),
        ("T* x", READ_ONLY, "x is written, but is read-only"),
        ("const char* x", X, "a pointer to char has no dtype"),
        ("T x", 1.0, r"pass x as accum<T>, not as T"),
        ("int n", 2**31, "n = 2147483648 is no int"),
        ("int n", 1.0, "n = 1.0 is no int"),
        ("unsigned n", -1, "n = -1 is no unsigned"),
        ("long long n", 2**63, "n = 9223372036854775808 is no long long"),
        ("unsigned long long n", -1, "n = -1 is no unsigned long long"),
        ("float a", 1e300, r"a = 1e\+300 is no float"),
        ("float a", None, "a = None is no float"),
        ("bool b", X, "b = .* is no bool"),
        ("size_t n", 3, "n takes a ctypes.Structure named size_t.*numbers are bool, int, "),
        ("Sizes s", Other(), "s takes a ctypes.Structure named Sizes"),
        ("Long s", Long(), "of 64 bytes at most"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, parameter, value, complaint):
    planted = program(tmp_path, parameter)
    with pytest.raises(UserError, match=rf"^Program\(.*planted.cu\) k: .*{complaint}") as error:
        planted.launch("k", X.dtype, 1, value)
    assert "\n" not in str(error.value)


def test_too_few_arguments_and_unknown_kernels_and_dtypes(tmp_path):
    planted = program(tmp_path, "T* x, int n")
    for args, complaint in [((X,), r"k\(x, n\) was given 1 arguments"), ((X, 1, 2), "given 3")]:
        with pytest.raises(UserError, match=complaint):
            planted.launch("k", X.dtype, 1, *args)
    with pytest.raises(UserError, match="no kernel 'j': k"):
        planted.launch("j", X.dtype, 1, X, 1)
    with pytest.raises(UserError, match="no int32; CUDA kernels take float32"):
        planted.launch("k", np.dtype("int32"), 1, X, 1)


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        (-1, 1), ((1, -1), 1), (2**31, 1), ((1, 65536), 1), ((1, 1, 65536), 1), ((1, 1, 1, 1), 1),
        (1, -1), (1, 1025), (1, (32, 0)), (1, (1, 1, 65)), (1, (64, 32)),
    ],
)  # fmt: skip
def test_grids_and_blocks_that_no_gpu_has(tmp_path, grid, block):
    with pytest.raises(UserError, match="beyond a GPU's limits"):
        program(tmp_path, "int n").launch("k", X.dtype, grid, 1, block=block)


@needs_compiler
def test_what_is_passed_by_value(tmp_path):
    parameters = "T* y, bool b, int i, unsigned u, long long q, unsigned long long k, double d, S s"
    body = "y[0] = b && i == -2147483647 - 1 && u == 4294967295u && q == -9223372036854775807ll - 1"
    body += " && k == 18446744073709551615ull && d == 1e300 && s.n == 7 && s.x == 0.5;"
    planted = program(tmp_path, parameters, body, "struct S { int n; double x; };")
    made = type("S", (ctypes.Structure,), {"_fields_": Sizes._fields_})(7, 0.5)
    y = X.copy()
    planted.launch(
        "k", y.dtype, np.int64(1), y, np.bool_(True), -(2**31), 2**32 - 1, np.int64(-(2**63)),
        2**64 - 1, 1e300, made,
    )  # fmt: skip
    assert y[0] == 1


@needs_compiler
def test_views_that_overlap_and_have_strides(tmp_path):
    body = "for (int i = 0; i < n; i++) y[i * step] = x[i] + 1;"
    planted = program(tmp_path, "T* y, const T* x, int n, int step", body)
    base = np.arange(8, dtype=np.float32)
    planted.launch("k", base.dtype, 1, base, base, 8, 1)  # in place
    assert (base == np.arange(1, 9)).all()
    planted.launch("k", base.dtype, 1, base[1:], base[:-1], 7, 1)  # each waits for the one before
    assert (base == np.arange(1, 9)).all()
    planted.launch("k", base.dtype, 1, Strided(base[::-1]), base.copy(), 8, -1)
    assert (base == np.arange(2, 10)[::-1]).all()
    empty = base[:0]
    planted.launch("k", base.dtype, 1, empty, empty, 0, 1)
    with pytest.raises(emulator.KernelFault, match=r"out of bounds: global write of 4 bytes"):
        planted.launch("k", base.dtype, 1, empty, base, 1, 1)
