"""train.py and minillm generate with --device cuda, on stand-in GPUs: the CPU's numbers, resuming
across devices, ranks that share a GPU."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.programs import minillm, mpirun, python

PROGRAM = "tests/train/scripts/on_fake_gpu.py"
TINY = [
    "--tokenizer", "byte", "--block_size", 16, "--n_layer", 2, "--n_head", 2, "--n_embd", 16,
    "--warmup_steps", 2, "--eval_batches", 2, "--sample_tokens", 8, "--batch_size", 6,
    "--dropout", 0.1, "--micro_batch_size", 2, "--log_interval", 1,
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "rhyme.txt"
    path.write_text("the cat sat on the mat, and the rat sat on the cat.\n" * 60)
    return path


def on_gpu(*args, gpus=1, ranks=0, **options):
    """A program on stand-in GPUs, its kernels the formulas."""
    words = [PROGRAM, gpus, "reference", *args]
    return mpirun(ranks, *words, **options) if ranks else python(*words, **options)


def records(out):
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def parameters(out, step):
    return load_file(Path(out) / f"checkpoints/step-{step:08d}/model.safetensors")


def assert_close(a, b, tolerance):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype == np.float32
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def run(tmp_path_factory, text):
    """Runs of 4 steps on the CPU and on a GPU, with checkpoints at 2 and 4."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--data", text, "--steps", 4, "--save_interval", 2, *TINY]
    assert python("train.py", *options, "--out", folder / "cpu").returncode == 0
    done = on_gpu("train", *options, "--device", "cuda", "--out", folder / "cuda")
    assert done.returncode == 0, done.stderr
    assert "gpu      Stand-in GPU\n" in done.stdout and not done.stderr
    return folder


def test_a_run_on_a_gpu_is_the_cpus(run):
    for ours, cpu in zip(records(run / "cuda"), records(run / "cpu"), strict=True):
        for key in cpu.keys() & {"loss", "grad_norm", "val_loss"}:
            assert ours[key] == pytest.approx(cpu[key], rel=1e-5)
    assert_close(parameters(run / "cuda", 4), parameters(run / "cpu", 4), 1e-4)


@pytest.mark.parametrize("first, then", [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_run_goes_on_on_another_device(run, tmp_path, first, then):
    out = tmp_path / "halves"
    shutil.copytree(run / first, out)
    shutil.rmtree(out / "checkpoints/step-00000004")
    more = ["--resume", "--out", out, "--device", then]
    done = on_gpu("train", *more) if then == "cuda" else python("train.py", *more)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 2" in done.stdout
    assert (f"device '{first}' -> '{then}'" in done.stdout) == (first != then)
    assert_close(parameters(out, 4), parameters(run / first, 4), 1e-4 if first != then else 0)


@pytest.mark.parametrize("gpus", [1, 2])
def test_two_ranks_on_one_or_two_gpus(run, text, tmp_path, gpus):
    options = ["--data", text, "--steps", 4, *TINY, "--dropout", 0, "--device", "cuda"]
    done = on_gpu("train", *options, "--out", tmp_path / "two", gpus=gpus, ranks=2)
    assert done.returncode == 0, done.stderr
    assert f"of ranks 0 to 1: 0, {gpus - 1}" in done.stdout
    assert ("2 ranks share one" in done.stdout) == (gpus == 1)
    assert done.stderr.count("summed over ranks in host memory") == 1
    options = options[:-2]
    assert python("train.py", *options, "--out", tmp_path / "one").returncode == 0
    assert_close(parameters(tmp_path / "two", 4), parameters(tmp_path / "one", 4), 1e-4)


def test_generated_text_is_the_cpus(run):
    words = ["generate", "--out", run / "cpu", "--tokens", 12, "--prompt", "the"]
    there, here = on_gpu(*words, "--device", "cuda"), minillm(*words)
    assert there.returncode == here.returncode == 0, there.stderr
    assert there.stdout == here.stdout and len(here.stdout) > 3


@pytest.mark.parametrize("ranks", [0, 2])
def test_no_gpu_is_one_line(text, tmp_path, ranks):
    options = ["--data", text, *TINY, "--device", "cuda", "--out", tmp_path / "run"]
    done = on_gpu("train", *options, gpus=0, ranks=ranks)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no usable GPU or driver" in done.stderr and not (tmp_path / "run").exists()


def test_bfloat16_learns_and_resumes_to_the_bit(text, tmp_path):
    """Checkpoints hold float32; the step after resuming is the one that would have come."""
    options = ["--data", text, *TINY, "--dtype", "bfloat16", "--save_interval", 15]
    options += ["--learning_rate", 0.01, "--schedule", "constant"]
    done = python("train.py", *options, "--steps", 30, "--out", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    assert "T=16, bfloat16" in done.stdout and "computed in float32 and rounded" in done.stderr
    losses = [r["loss"] for r in records(tmp_path / "whole") if "loss" in r]
    assert losses[-1] < losses[0] - 1
    first = [*options, "--steps", 15, "--out", tmp_path / "halves"]
    assert python("train.py", *first).returncode == 0
    more = ["--resume", "--out", tmp_path / "halves", "--steps", 30]
    assert python("train.py", *more).returncode == 0
    whole, halves = parameters(tmp_path / "whole", 30), parameters(tmp_path / "halves", 30)
    for name, array in whole.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, halves[name])
    done = minillm("generate", "--out", tmp_path / "whole", "--tokens", 4)
    assert done.returncode == 0 and len(done.stdout) > 3, done.stderr
