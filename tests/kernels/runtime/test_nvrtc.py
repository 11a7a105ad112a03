"""NVRTC: the flags hold, the disk cache is never stale nor wrong, messages can be acted upon."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from minillm import env
from minillm.errors import UserError
from minillm.kernels.runtime import nvrtc
from minillm.kernels.runtime.cubins import has_tools, inspect
from tests import cubins

pytestmark = pytest.mark.skipif(not cubins.has_nvrtc(), reason="no NVRTC: minillm[toolkit]")

SCALE = """#include "factor.cuh"
template <typename T> __global__ void scale(T* x) { x[threadIdx.x] *= T(FACTOR); }
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """An empty kernels/ folder with headers, and an empty cache; gives a writer of files."""
    kernels = tmp_path / "kernels"
    monkeypatch.setattr(nvrtc, "KERNELS", kernels)
    monkeypatch.setattr(nvrtc, "INCLUDE", kernels / "runtime/include")
    monkeypatch.setattr(env, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(env, "_said", set())

    def write(name, text):
        path = kernels / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    write("runtime/include/value.cuh", "#define FACTOR 3\n")
    write("runtime/include/factor.cuh", "#pragma once\n#  include <value.cuh>\n")
    return write


@pytest.fixture
def compilations(monkeypatch):
    """What was really compiled, in order."""
    done, real = [], nvrtc._compile

    def compile(name, source, expressions, arch):
        done.append((expressions, arch))
        return real(name, source, expressions, arch)

    monkeypatch.setattr(nvrtc, "_compile", compile)
    return done


def kept(tmp_path):
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_names_and_image(house):
    wanted = ("scale<float>", "scale<double>")
    cubin = nvrtc.compile(house("op/v1_naive.cu", SCALE), wanted, "sm_80")
    assert cubin.image.startswith(b"\x7fELF")
    assert cubin.names == {"scale<float>": "_Z5scaleIfEvPT_", "scale<double>": "_Z5scaleIdEvPT_"}
    assert all(name.encode() in cubin.image for name in cubin.names.values())


def test_second_time_comes_from_the_disk(house, compilations, tmp_path):
    path = house("op/v1_naive.cu", SCALE)
    first = nvrtc.compile(path, ("scale<float>", "scale<double>"), "sm_80")
    assert nvrtc.compile(path, ("scale<double>", "scale<float>"), "sm_80") == first
    assert len(compilations) == len(kept(tmp_path)) == 1
    assert nvrtc.compile(path, ("scale<float>",), "sm_80").names.keys() == {"scale<float>"}
    assert nvrtc.compile(path, ("scale<float>",), "sm_90a").image != first.image
    assert len(compilations) == 3


@pytest.mark.parametrize("change", ["source", "header", "header of header", "version", "flags"])
def test_what_changes_the_code_is_compiled_again(house, compilations, monkeypatch, change):
    path = house("op/v1_naive.cu", SCALE)
    before = nvrtc.compile(path, ("scale<float>",), "sm_80")
    if change == "source":
        house("op/v1_naive.cu", SCALE.replace("*=", "+="))
    elif change == "header":
        house("runtime/include/factor.cuh", "#define FACTOR 4\n")
    elif change == "header of header":
        house("runtime/include/value.cuh", "#define FACTOR 5\n")
    elif change == "version":
        monkeypatch.setattr(nvrtc, "version", lambda: "99.0")
    else:
        monkeypatch.setattr(nvrtc, "FLAGS", (*nvrtc.FLAGS, "--maxrregcount=16"))
    after = nvrtc.compile(path, ("scale<float>",), "sm_80")
    assert len(compilations) == 2
    assert change in ("version", "flags") or after.image != before.image


def test_headers_that_include_each_other_end(house):
    house("runtime/include/factor.cuh", '#pragma once\n#include "value.cuh"\n')
    house("runtime/include/value.cuh", '#pragma once\n#include "factor.cuh"\n#define FACTOR 2\n')
    nvrtc.compile(house("op/v1_naive.cu", SCALE), ("scale<float>",), "sm_80")


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\n[1, 2]", lambda b: b"\n{}",
     lambda b: b.replace(b"_Z5scale", b"_Z5elacs"), lambda b: b[:99] + b"x" + b[100:]],
    ids=["half", "empty", "numbers", "object", "names", "byte"],
)  # fmt: skip
def test_damaged_entry_is_compiled_again(house, compilations, tmp_path, capsys, damage):
    path = house("op/v1_naive.cu", SCALE)
    first = nvrtc.compile(path, ("scale<float>",), "sm_80")
    (entry,) = kept(tmp_path)
    entry.write_bytes(damage(entry.read_bytes()))
    assert nvrtc.compile(path, ("scale<float>",), "sm_80") == first
    assert len(compilations) == 2 and "damaged" in capsys.readouterr().err
    assert nvrtc.compile(path, ("scale<float>",), "sm_80") == first
    assert len(compilations) == 2 and len(kept(tmp_path)) == 1


def test_cache_that_cannot_be_written(house, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(env, "CACHE", tmp_path / "file")
    assert nvrtc.compile(house("op/v1_naive.cu", SCALE), ("scale<float>",), "sm_80").image
    assert "not kept" in capsys.readouterr().err


def test_threads_compile_at_once(house, tmp_path):
    path = house("op/v1_naive.cu", SCALE)
    with ThreadPoolExecutor(4) as pool:
        cubins = list(pool.map(lambda _: nvrtc.compile(path, ("scale<float>",), "sm_80"), range(4)))
    assert all(cubin == cubins[0] for cubin in cubins) and len(kept(tmp_path)) == 1


def test_error_names_file_and_line(house, tmp_path):
    path = house("layer_norm/v2_warp.cu", "\n\n" + SCALE + "__device__ int f() { return zz; }\n")
    with pytest.raises(nvrtc.CompileError) as caught:
        nvrtc.compile(path, ("scale<float>",), "sm_80")
    text = str(caught.value)
    assert text.startswith("layer_norm/v2_warp.cu does not compile for sm_80, NVRTC ")
    assert 'layer_norm/v2_warp.cu(5): error: identifier "zz" is undefined' in text
    assert "threadIdx" not in text and not kept(tmp_path)


def test_error_is_not_repeated_for_each_name(house):
    path = house("op/v1_naive.cu", "zz\n" + SCALE)  # so that `scale` is unknown as well
    with pytest.raises(nvrtc.CompileError, match=r"op/v1_naive.cu\(1\): error") as caught:
        nvrtc.compile(path, ("scale<float>", "scale<double>"), "sm_80")
    assert "kernel's name" not in str(caught.value)


def test_error_in_a_header(house):
    house(
        "runtime/include/value.cuh",
        "\n#define FACTOR 3\ninline __device__ int f() { return zz; }\n",
    )
    with pytest.raises(nvrtc.CompileError, match=r"\nruntime/include/value.cuh\(3\): error: "):
        nvrtc.compile(house("op/v1_naive.cu", SCALE), ("scale<float>",), "sm_80")


def test_error_of_a_header_that_is_not_there(house, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # what lies around here is not ours
    (tmp_path / "op").mkdir()
    (tmp_path / "op/nearby.cuh").touch()
    path = house("op/v1_naive.cu", '#include "nearby.cuh"\n' + SCALE)
    with pytest.raises(nvrtc.CompileError, match=r"v1_naive.cu\(1\).*nearby.cuh"):
        nvrtc.compile(path, ("scale<float>",), "sm_80")


def test_error_of_a_kernel_that_is_not_there(house):
    path = house("op/v1_naive.cu", SCALE)
    with pytest.raises(nvrtc.CompileError, match="op/v1_naive.cu.*: error: identifier .skale."):
        nvrtc.compile(path, ("skale<float>",), "sm_80")


def test_many_errors_fit_a_screen(house):
    lines = "".join(f"__device__ int f{i}() {{ return zz{i}; }}\n" for i in range(50))
    with pytest.raises(nvrtc.CompileError, match=r"\n\.\.\. \d+ more lines$") as caught:
        nvrtc.compile(house("op/v1_naive.cu", lines), (), "sm_80")
    assert len(str(caught.value).splitlines()) == 42


def test_unknown_architecture(house):
    path = house("op/v1_naive.cu", SCALE)
    with pytest.raises(UserError, match=r"does not compile for sm_999, only for .*sm_80.*sm_90"):
        nvrtc.compile(path, ("scale<float>",), "sm_999")


def test_nvrtc_missing(house, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    nvrtc._nvrtc.cache_clear()
    try:
        with pytest.raises(UserError, match=r"need NVRTC .*pip install 'minillm\[cuda13\]'"):
            nvrtc.compile(house("op/v1_naive.cu", SCALE), ("scale<float>",), "sm_80")
    finally:
        nvrtc._nvrtc.cache_clear()


@pytest.mark.parametrize(
    "capability, arch", [("80", "sm_80"), ("89", "sm_89"), ("90", "sm_90a"), ("100", "sm_100a")]
)
def test_arch_of_device(monkeypatch, capability, arch):
    device = SimpleNamespace(compute_capability=capability)
    fake = SimpleNamespace(cuda=SimpleNamespace(Device=lambda: device))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    assert nvrtc.arch_of_device() == arch


def test_every_device_that_nvrtc_knows_has_an_arch(house, monkeypatch):
    path = house("op/v1_naive.cu", SCALE)
    for capability in nvrtc.architectures():
        test_arch = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
        assert nvrtc.compile(path, ("scale<float>",), test_arch).image


@pytest.mark.skipif(not has_tools(), reason="no cuobjdump: minillm[toolkit]")
def test_arithmetic_is_ieee_with_fused_multiply_adds(house):
    text = """template <typename T> __global__ void f(T* x) {
        x[0] = x[1] * x[2] + x[3]; x[4] = x[5] + x[6]; x[7] = x[8] / x[9]; }"""
    cubin = nvrtc.compile(house("op/v1_naive.cu", text), ("f<float>",), "sm_80")
    (usage,) = inspect(cubin.image).values()
    opcodes = " ".join(usage.opcodes)
    assert "FFMA" in opcodes and "FADD" in opcodes
    assert ".FTZ" not in opcodes
    assert "FCHK" in opcodes  # division looks for operands that the short way gets wrong
