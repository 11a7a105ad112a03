"""Every .cu file compiles for A100- and H100-class GPUs in every dtype, and its machine code is
what its `// asserts` lines say, and can be launched (tests/cubins.py). Needs NVRTC, but no GPU."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from minillm.kernels.runtime import nvrtc
from minillm.kernels.runtime.cubins import has_tools
from minillm.kernels.runtime.cuda import Program
from tests import cubins

pytestmark = pytest.mark.skipif(not cubins.has_nvrtc(), reason="no NVRTC: minillm[toolkit]")
needs_tools = pytest.mark.skipif(not has_tools(), reason="no cuobjdump: minillm[toolkit]")
KERNELS = nvrtc.KERNELS
ARCHS = ("sm_80", "sm_90a")
FILES = sorted(KERNELS.glob("*/v*.cu"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(KERNELS)))
def test_file(path):
    program = Program(path)
    assert program.kernels, "no kernel found"
    with ThreadPoolExecutor() as pool:
        compiled = dict(zip(ARCHS, pool.map(lambda a: cubins.compile_all(program, a), ARCHS)))
        if not has_tools():
            pytest.skip("compiles; what it needs cannot be read without cuobjdump")
        found = pool.map(lambda cubin: cubins.complaints(program, cubin), compiled.values())
        broken = {arch: broken for arch, broken in zip(ARCHS, found) if broken}
    assert not broken


COPY = """// A planted file.
{asserts}
#include "pack.cuh"
constexpr int THREADS = 256;
template <typename T>
__global__ void copy_packs(T* y, const T* x) {{
    int i = threadIdx.x * Pack<T>::N;
    store_pack(y + i, load_pack(x + i));
}}
template <typename T>
__global__ void copy_once(T* y, const T* x) {{
    int i = threadIdx.x * Pack<T>::N;
    store_pack_once(y + i, load_pack_once(x + i));
}}
template <typename T>
__global__ void copy_elements(T* y, const T* x) {{ y[threadIdx.x] = x[threadIdx.x]; }}
template <typename T>
__global__ void shuffle_array(T* y, const T* x, int step) {{
    T a[512];
    for (int i = 0; i < 512; i++) a[i] = x[i];
    for (int i = 0; i < 512; i++) y[i] = a[i * step % 512];
}}
template <typename T>
__global__ void __launch_bounds__(1024) keep_much(T* y, const T* x) {{
    accum<T> a[96];
    #pragma unroll
    for (int i = 0; i < 96; i++) a[i] = to_accum(x[i * 1024 + threadIdx.x]);
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 96; i++) y[i * 1024 + threadIdx.x] = from_accum<T>(a[95 - i] * a[i]);
}}
"""


@pytest.fixture
def program(tmp_path):
    """Writes the planted file with some assertions."""

    def write(*asserts, text=COPY):
        path = tmp_path / "v1_planted.cu"
        path.write_text(text.format(asserts="\n".join(asserts)))
        return Program(path)

    return write


@pytest.fixture
def planted(program):
    """Complaints about the planted file under some assertions."""

    def complaints(*asserts, arch="sm_90a"):
        asserting = program(*asserts)
        return cubins.complaints(asserting, cubins.compile_all(asserting, arch))

    return complaints


@needs_tools
@pytest.mark.parametrize("arch", ARCHS)
def test_what_holds_is_not_complained_about(planted, arch):
    assert not planted(
        "// asserts: registers <= 255",
        "// asserts copy_packs: no spills, registers <= 32, 128-bit loads, 128-bit stores",
        "// asserts copy_once: 128-bit loads, 128-bit stores",
        "//asserts copy_elements<double> : no spills",
        arch=arch,
    )


@needs_tools
def test_planted_spills(planted):
    found = planted("// asserts: no spills")
    assert sorted({line.partition("<")[0] for line in found}) == ["keep_much", "shuffle_array"]
    spilled = next(line for line in found if line.startswith("shuffle_array<float>"))
    assert "2048 bytes of stack" in spilled and "has 0 local" not in spilled


@needs_tools
def test_planted_missing_128_bit_access(planted):
    found = planted("// asserts copy_elements: 128-bit loads, 128-bit stores")
    assert len(found) == 4 and not any("<double>" in line for line in found)
    assert any(line.startswith("copy_elements<bf16>: asserts 128-bit loads") for line in found)
    assert any("copy_elements<float>" in line and "has only STG.E" in line for line in found)


@needs_tools
def test_planted_registers(planted):
    assert planted("// asserts copy_packs<float>: registers <= 4")[0].startswith(
        "copy_packs<float>: asserts registers <= 4, but uses "
    )


@needs_tools
@pytest.mark.parametrize("bounds", ["", "__launch_bounds__(2 * THREADS, 1)"])
def test_planted_block_that_no_multiprocessor_holds(program, bounds):
    """A thread keeps 48 doubles or more, in over 64 registers: too many for 1024 threads."""
    keeping = program(text=COPY.replace("__launch_bounds__(1024) keep_much", f"{bounds} keep_much"))
    found = cubins.complaints(keeping, cubins.compile_all(keeping, "sm_90a"))
    assert keeping.kernels["keep_much"].most_threads == (512 if bounds else 1024)
    assert [line.partition(":")[0] for line in found] == ["keep_much<double>"][bool(bounds) :]
    assert all("are too many for a block of 1024 threads" in line for line in found)


@needs_tools
def test_planted_static_shared_memory(program):
    """For sm_80 the compiler refuses it itself."""
    kernel = """
template <typename T>
__global__ void keep_in(T* y, const T* x) {{
    __shared__ char bytes[SIZE];
    bytes[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (bytes[threadIdx.x ^ 1] > 7) y[threadIdx.x] = x[threadIdx.x];
}}
"""
    for size, wrong in ((49152, 0), (49156, 3)):
        keeping = program(text=COPY + kernel.replace("SIZE", str(size)))
        found = cubins.complaints(keeping, cubins.compile_all(keeping, "sm_90a"))
        assert len(found) == wrong
        assert all(f"{size} bytes of static shared memory, 49152" in line for line in found)


@pytest.mark.parametrize(
    "line",
    ["// asserts: no spill", "// asserts: registers < 40", "// asserts copy_pack: no spills",
     "// asserts copy_packs<half>: no spills", "// asserts: no spills, ", "// asserts:"],
)  # fmt: skip
def test_assertion_that_says_nothing(program, line):
    with pytest.raises(ValueError, match="cannot understand"):
        cubins.statements(program(line))


def test_planted_compile_error(program):
    broken = program(text=COPY.replace("Pack<T>::N;", "Pack<T>::M;", 1))
    with pytest.raises(nvrtc.CompileError, match=r"v1_planted.cu\(7\): error.*\"M\""):
        cubins.compile_all(broken, "sm_80")
