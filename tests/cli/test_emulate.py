"""`minillm emulate`: tables of what kernels move, and bad input in one line."""

import pytest

from minillm.cli import main
from minillm.kernels.registry import Kernel
from minillm.kernels.runtime import emulator

needs_compiler = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")


def emulate(capsys, *argv):
    code = main(["emulate", *argv])
    out, err = capsys.readouterr()
    return code, out, err


@needs_compiler
def test_each_step_with_its_lines(capsys):
    code, out, err = emulate(capsys, "layer_norm_forward", "--shape", "N=32, C=64", "--lines")
    assert code == 0 and not err
    assert "N=32, C=64, float32" in out
    assert "v1_naive: as the reference" in out and "v2_warp: as the reference" in out
    loads = [
        line for line in out.splitlines() if line.startswith("  all") and "global load" in line
    ]
    naive, warp = loads[:2]
    assert naive.split()[-1] > "70%" and warp.endswith("0%")
    assert "v1_naive.cu:" in out


@needs_compiler
def test_one_step_in_another_dtype_and_order(capsys):
    options = ["--step", "v1_naive", "--dtype", "bfloat16", "--order", "random", "--seed", "4"]
    code, out, _ = emulate(capsys, "layer_norm_forward", *options)
    assert code == 0 and "layer_norm_forward<bf16>" in out and "v2" not in out


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "name a kernel: "),
        (["nonsense"], "no CUDA kernel is called 'nonsense': choose "),
        (["layer_norm_forward", "--step", "v9"], "has no step 'v9': it has v1_naive"),
        (["layer_norm_forward", "--shape", "Q=3"], "has no Q; its sizes are N, C"),
        (["layer_norm_forward", "--shape", "N:3"], 'write it as "N=256, C=768"'),
        (["layer_norm_forward", "--shape", "N=open"], 'write it as "N=256, C=768"'),
    ],
)
@needs_compiler
def test_bad_input_is_one_line(capsys, argv, complaint):
    code, _, err = emulate(capsys, *argv)
    assert code == 2 and complaint in err and len(err.splitlines()) == 1


def test_no_compiler_is_one_line(capsys, monkeypatch):
    from minillm.kernels.runtime.emulator import build

    monkeypatch.setenv("CXX", "no-such-compiler")
    build.compiler.cache_clear()
    emulator.runtime.cache_clear()
    build.runtime_library.cache_clear()
    try:
        code, out, err = emulate(capsys, "layer_norm_forward")
        assert (code, out) == (2, "") and "needs a C++ compiler" in err
    finally:
        for cached in (build.compiler, emulator.runtime, build.runtime_library):
            cached.cache_clear()


@pytest.mark.parametrize("shape", ["N=-1, C=3", "N='a'", "N=1.5", "N=(1, 2)", "**{}"])
@needs_compiler
def test_sizes_that_are_none_are_refused(capsys, shape):
    code, _, err = emulate(capsys, "layer_norm", "--shape", shape)
    assert code == 2 and "--shape" in err and "write it " in err and err.count("\n") == 1


@needs_compiler
def test_a_fault_is_no_traceback(capsys, monkeypatch):
    def wrong(*args):
        raise emulator.KernelFault("out of bounds")

    monkeypatch.setattr("minillm.cli.emulate.outputs", lambda *args: [])
    monkeypatch.setattr(
        Kernel,
        "implementation",
        lambda k, name: (lambda *args: None) if name == "reference" else wrong,
    )
    code, _, err = emulate(capsys, "gelu_forward", "--step", "v1_naive", "--shape", "shape=(3, 4)")
    assert code == 2 and err == "minillm emulate: out of bounds\n"
