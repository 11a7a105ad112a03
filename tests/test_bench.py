"""The benchmarks run, say what they should, and refuse to compare what is not the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import train_step
from bench.machine import Limits
from minillm.cli.checks.process import user_environment
from minillm.errors import UserError

ROOT = Path(__file__).parents[1]


def run(*command):
    # A benchmark refuses to measure inside a worker of xdist's; this one only has to run.
    env = {k: v for k, v in user_environment().items() if not k.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True,
        timeout=150, env=env,
    )  # fmt: skip


def test_a_kernel_benchmark_is_complete(tmp_path):
    path = tmp_path / "out.json"
    done = run(
        *("-m", "pytest", "bench/", "--benchmark-only", "--benchmark-enable"),
        *("-k", "layer_norm_forward-N768-C128-cpu", f"--benchmark-json={path}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(path.read_text())
    (benchmark,) = report["benchmarks"]
    info = benchmark["extra_info"]
    assert benchmark["group"] == "layer_norm_forward N=768 C=128"
    assert (info["op"], info["implementation"], info["dtype"]) == ("layer_norm", "cpu", "float32")
    nbytes, seconds = 2 * 768 * 128 * 4, benchmark["stats"]["median"]
    assert info["gbs"] == pytest.approx(nbytes / seconds / 1e9)
    assert info["copy_share"] == pytest.approx(info["gbs"] / info["copy_gbs"])
    assert info["gemm_share"] == pytest.approx(info["gflops"] / info["gemm_gflops"])
    assert 0 < info["max_error"] < 1e-5 and info["threads"] >= 1
    described = report["machine_info"]["minillm"]
    assert described["versions"]["numpy"]
    assert described["blas_threads"] == 1  # as in train.py: minillm was imported before NumPy
    assert "% of limit" in done.stdout and "layer_norm_forward  N=768 C=128" in done.stdout


def test_the_limit_that_binds():
    limits = Limits(copy=10e9, gemm=100e9)
    assert limits.share(10**9, 10**9, 0.2) == (pytest.approx(0.5), "copy")
    assert limits.share(10**6, 10**10, 0.2) == (pytest.approx(0.5), "GEMM")


TINY = dict(steps=2, rounds=2, n_layer=2, n_embd=32, batch_size=2, block_size=8, against="torch")
MODERN = dict(
    position="rotary", norm="rms_norm", activation="swiglu", n_kv_head=2, dtype="float64",
    tie_embeddings=False, bias=True,
)  # fmt: skip


@pytest.mark.parametrize("options", [{}, MODERN], ids=["gpt2", "modern"])
def test_train_step_against_torch(options):
    """Both sides agree on the losses of the first steps, in every option of the model."""
    pytest.importorskip("torch")
    result = train_step.measure(train_step.Options(**TINY, **options))
    assert result["blas_threads"] == 1
    assert result["sides"].keys() == {"minillm", "torch"}
    for side in result["sides"].values():
        assert 0 < side["p20_ms"] <= side["median_ms"] <= side["p80_ms"] and 0 < side["mfu"] < 1
    ours, theirs, ratio = train_step.report(result).splitlines()[-3:]
    assert ours.startswith("minillm ") and theirs.startswith("torch ")
    assert ratio.startswith("torch / minillm: ")


def test_train_step_command():
    done = run("bench/train_step.py", "--preset", "small", "--n_embd", "30")
    assert done.returncode == 2 and "n_embd 30 is not divisible by n_head 4" in done.stderr


def test_different_losses_are_not_compared():
    names = ["minillm", "torch"]
    train_step.check_losses(names, [[4.1742, 4.17], [4.1742, 4.17]], "float32")
    with pytest.raises(UserError, match="first losses differ"):
        train_step.check_losses(names, [[4.1742, 4.17], [4.1742, 4.171]], "float32")
    with pytest.raises(UserError, match="not finite"):
        train_step.check_losses(names, [[float("nan")], [float("nan")]], "float32")
