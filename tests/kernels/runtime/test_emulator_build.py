"""From a .cu file to a library: what is rewritten, what is refused, what is kept."""

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import Program
from minillm.kernels.runtime.emulator import build

needs_compiler = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("__shared__ float a[32];", 'auto& a = emu::shared<float[32]>(&a_key, 1, "a", __LINE__);'),
        ("__shared__ A t[2][N + 1];", 'auto& t = emu::shared<A[2][N + 1]>(&t_key, 1, "t",'),
        ("__shared__ accum<T> s;", 'auto& s = emu::shared<accum<T>>(&s_key, 1, "s", __LINE__);'),
        ("__shared__ unsigned int n;", 'auto& n = emu::shared<unsigned int>(&n_key, 1, "n",'),
        ("__shared__ __align__(16) T r[8];", 'emu::shared<T[8]>(&r_key, 16, "r", __LINE__);'),
        ("extern __shared__ float4 v[];", "float4* const v = reinterpret_cast<float4*>("),
        ("__shared__ int a[4], b;", 'auto& b = emu::shared<int>(&b_key, 1, "b", __LINE__);'),
    ],
)  # fmt: skip
def test_shared_memory_is_rewritten_in_its_line(source, wanted):
    text = build.rewrite(f"void k() {{\n  {source}  // __shared__ in words\n}}\n")
    assert wanted in text.splitlines()[1]
    assert text.splitlines()[1].endswith("// __shared__ in words")
    assert len(text.splitlines()) == 3


def test_other_declarations_are_refused_with_their_line():
    with pytest.raises(build.CompileError, match="line 2: write `__shared__ TYPE NAME"):
        build.rewrite("{\n__shared__ float a[2] = {1, 2};\n")


@pytest.mark.parametrize("source", ["__shared__ float a[2];", "extern __shared__ float a[];"])
def test_shared_memory_outside_a_function_is_refused(source):
    with pytest.raises(build.CompileError, match="line 3: declare it in the function that uses it"):
        build.rewrite(f"void k() {{\n}}\n{source}\n")


@needs_compiler
def test_a_compile_error_has_file_line_and_words(tmp_path):
    path = tmp_path / "wrong.cu"
    path.write_text(
        "constexpr int THREADS = 1;\n__global__ void k(float* y) {\n  y[0] = nothing;\n}\n"
    )
    with pytest.raises(build.CompileError) as error:
        Program(path).launch("k", np.dtype("float32"), 1, np.zeros(1, np.float32))
    assert f"{tmp_path.name}/wrong.cu:3" in str(error.value) and "nothing" in str(error.value)


@needs_compiler
def test_more_local_memory_than_a_fiber_has_is_refused(tmp_path):
    path = tmp_path / "large.cu"
    path.write_text(
        "constexpr int THREADS = 1;\n__global__ void k(float* y, int n) {\n"
        "  float a[20000];\n  for (int i = 0; i < n; i++) a[i] = y[i];\n  y[0] = a[n / 2];\n}\n"
    )
    with pytest.raises(build.CompileError, match="frame size of 80.* bytes is larger"):
        Program(path).launch("k", np.dtype("float32"), 1, np.zeros(4, np.float32), 4)


def test_no_compiler_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.compiler.cache_clear()
    try:
        assert not emulator.available()
        with pytest.raises(UserError, match="install g\\+\\+"):
            build.compiler()
    finally:
        build.compiler.cache_clear()


@needs_compiler
def test_an_edited_file_is_compiled_again(tmp_path):
    path, y = tmp_path / "edited.cu", np.zeros(1, np.float32)
    for value in ("1", "2"):
        path.write_text(
            f"constexpr int THREADS = 1;\n__global__ void k(float* y) {{ y[0] = {value}; }}\n"
        )
        Program(path).launch("k", y.dtype, 1, y)
        assert y[0] == float(value)
