"""The choice between implementations, CHECK and DEBUG, and the key of the compiled code's cache."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minillm import env
from minillm.errors import UserError
from minillm.kernels import instrument, registry
from minillm.kernels.registry import KERNELS, use
from minillm.kernels.runtime.jit import cache_directory
from minillm.kernels.softmax import softmax_backward, softmax_forward

ROOT = Path(__file__).parents[2]
X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)

DECLARATION = """
from minillm.kernels.registry import Cost, Kernel

{name} = Kernel(
    __name__, "{name}", "x (N,) -> y (N,)",
    inputs=lambda rng, N: (rng.normal(size=N),), shapes=[dict(N=3)], bench=[dict(N=3)],
    cost=lambda x: Cost(2 * x.nbytes, x.size),
)
"""


@pytest.fixture
def declare(tmp_path, monkeypatch):
    """Declares a kernel in a package of its own: `declare(name, reference=body, cpu=body)`."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def declare(name, **files):
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text(DECLARATION.format(name=name))
        for file, body in files.items():
            (package / f"{file}.py").write_text(f"def {name}(x):\n    return {body}\n")
        names.append(name)
        return getattr(__import__(name), name)

    yield declare
    for name in names:
        del KERNELS[name]
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[module]


def chosen(kernel):
    """Name of the implementation that the next call of `kernel` runs."""
    return kernel._choose("cpu", "float32")[0]


def python(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


CALL = """
import numpy as np
from minillm.kernels.softmax import softmax_forward
softmax_forward(np.zeros((2, 3), np.float32))
softmax_forward(np.zeros((2, 3), np.float32))
"""


def test_cpu_is_the_default_and_use_is_undone():
    assert chosen(softmax_forward) == "cpu"
    with use("reference"):
        assert chosen(softmax_forward) == chosen(softmax_backward) == "reference"
        with use("softmax_backward=cpu"):
            assert chosen(softmax_forward) == "reference"
            assert chosen(softmax_backward) == "cpu"
        assert chosen(softmax_backward) == "reference"
    with use("softmax_backward=cpu"), use("reference"):  # the inner one says all
        assert chosen(softmax_backward) == "reference"
    with pytest.raises(RuntimeError), use("softmax=reference"):
        assert chosen(softmax_forward) == chosen(softmax_backward) == "reference"
        raise RuntimeError
    assert chosen(softmax_forward) == "cpu"


def test_a_choice_applies_to_kernels_already_called(declare):
    kernel = declare("toy_switch", reference="x + 1", cpu="x + 2", cpu_three="x + 3")
    x = np.zeros(3, np.float32)
    assert kernel.implementations() == ["reference", "cpu", "cpu_three"]
    assert kernel(x)[0] == 2
    with use(" toy_switch = cpu_three ,softmax=reference"):
        assert kernel(x)[0] == 3
    with use("reference"):
        assert kernel(x)[0] == 1
    assert kernel(x)[0] == 2


def test_what_cpu_lacks_runs_as_the_reference(declare):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kernel = declare("toy_dtypes", reference="x + 1", cpu="x + 2")
    assert kernel(np.zeros(3, ml_dtypes.bfloat16))[0] == 1
    with use("cpu"), pytest.raises(UserError, match="cpu does not support bfloat16"):
        kernel(np.zeros(3, ml_dtypes.bfloat16))
    only = declare("toy_reference", reference="x + 1")
    assert only(np.zeros(3, np.float32))[0] == 1


@pytest.mark.parametrize("choices", ["=reference", "softmax=", "=", "reference,softmax="])
def test_malformed_choice(choices):
    with pytest.raises(UserError, match="write IMPLEMENTATION or KERNEL=IMPLEMENTATION"):
        use(choices).__enter__()
    assert chosen(softmax_forward) == "cpu"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("refrence", "the kernels: no implementation 'refrence'; there are: reference, cpu"),
        ("softmax=cpu_fast", "softmax: no implementation 'cpu_fast'; there are: reference, cpu"),
        ("sotfmax=cpu", "no kernel is called 'sotfmax'; there are: .*softmax"),
    ],
)
def test_unknown_choice(choices, message):
    with use(choices), pytest.raises(UserError, match=message):
        softmax_forward(X)
    softmax_forward(X)


def test_unknown_implementation_of_one_kernel():
    with pytest.raises(UserError, match="softmax_forward has no implementation 'gpu'; it has: ref"):
        softmax_forward.implementation("gpu")


def test_environment_variable_forces_an_implementation():
    done = python(CALL, MINILLM_KERNELS="softmax=reference", DEBUG="1")
    assert done.stderr == "kernel softmax_forward: reference for float32 (forced)\n"
    done = python(CALL, MINILLM_KERNELS="softmax=fast")
    assert done.returncode == 1
    assert "implementation 'fast'" in done.stderr
    done = python("import minillm.kernels.registry", MINILLM_KERNELS="softmax=")
    assert "UserError: kernel choice 'softmax='" in done.stderr.replace("minillm.errors.", "")


def test_debug_says_what_ran_and_how_fast():
    done = python(CALL, DEBUG="1", CHECK="0", MINILLM_KERNELS="")
    assert done.stderr == "kernel softmax_forward: cpu for float32\n"  # once, not at each call
    done = python(CALL, DEBUG="2", CHECK="0", MINILLM_KERNELS="")
    first, *timed = done.stderr.splitlines()
    assert first == "kernel softmax_forward: cpu for float32"
    number = r"\s+\d+\.\d+"
    line = rf"kernel softmax_forward\s+cpu{number} ms{number} GB/s{number} TFLOP/s"
    assert len(timed) == 2
    assert all(re.fullmatch(line, text) for text in timed), timed
    assert python(CALL, DEBUG="", CHECK="", MINILLM_KERNELS="").stderr == ""


def test_check_catches_a_wrong_implementation(declare, monkeypatch):
    monkeypatch.setattr(env, "CHECK", 1)
    wrong = declare("toy_wrong", reference="x + 1", cpu="x + (x == 2) + 1")
    wrong(np.array([1, 3], np.float32))
    with pytest.raises(
        instrument.KernelCheckError,
        match=r"toy_wrong \[cpu\] output 0\[1\]: got 4, reference 3; 1 of 3 outside rtol",
    ):
        wrong(np.array([1, 2, 3], np.float32))
    shape = declare("toy_shape", reference="x", cpu="x[:1]")
    with pytest.raises(instrument.KernelCheckError, match=r"shape \(1,\), reference \(2,\)"):
        shape(np.zeros(2, np.float32))
    nan = declare("toy_nan", reference="x", cpu="x * float('nan')")
    with pytest.raises(instrument.KernelCheckError, match="got nan"):
        nan(np.zeros(2, np.float32))
    count = declare("toy_count", reference="(x, x)", cpu="x")
    with pytest.raises(instrument.KernelCheckError, match="1 outputs, want 2"):
        count(np.zeros(2, np.float32))
    right = declare("toy_right", reference="x + x", cpu="2 * x")
    right(np.array([np.nan, np.inf, -np.inf], np.float32))  # NaN and infinities that agree pass


def test_check_sees_arrays_changed_in_place(declare, monkeypatch):
    monkeypatch.setattr(env, "CHECK", 1)
    kernel = declare("toy_inplace", reference="x.__iadd__(1)[:0]", cpu="x.__iadd__(2)[:0]")
    kernel.mutates = (0,)
    with pytest.raises(instrument.KernelCheckError, match=r"output 1\[0\]: got 2, reference 1"):
        kernel(np.zeros(2, np.float32))


def test_every_folder_is_declared():
    kernels = registry.declared()
    folders = {p.parent.name for p in (ROOT / "kernels").glob("*/reference.py")}
    assert folders == {k.op for k in kernels.values() if k.package.startswith("minillm.")}


def test_compiled_code_is_kept_apart_when_any_source_changes(tmp_path):
    (tmp_path / "op").mkdir()
    helper, kernel = tmp_path / "helper.py", tmp_path / "op" / "cpu.py"
    helper.write_text("a = 1")
    kernel.write_text("b = 1")
    first = cache_directory(tmp_path)
    assert first == cache_directory(tmp_path)
    helper.write_text("a = 2")
    second = cache_directory(tmp_path)
    kernel.write_text("b = 2")
    assert len({first, second, cache_directory(tmp_path)}) == 3
