"""train.py as users start it: real processes, real ranks, real files."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.programs import minillm, mpirun, python

TINY = [
    "--tokenizer", "byte", "--block_size", "16", "--n_layer", "2", "--n_head", "2", "--n_embd",
    "16", "--warmup_steps", "2", "--eval_batches", "2", "--sample_tokens", "8",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "rhyme.txt"
    path.write_text("the cat sat on the mat, and the rat sat on the cat.\n" * 60)
    return path


def parameters(out, step):
    return load_file(Path(out) / f"checkpoints/step-{step:08d}/model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_four_ranks_from_text_to_sample(tmp_path, text):
    out = tmp_path / "run"
    done = mpirun(4, "train.py", "--data", text, "--out", out, "--steps", 60, "--batch_size", 16,
                  "--learning_rate", 0.01, *TINY)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("data ", "model ", "ranks    4 (bucketed),", "step     60/60", "eta", "exposed",
                 "validation loss", "perplexity", "bits per byte", "by frequency"):  # fmt: skip
        assert word in done.stdout, word
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records if "loss" in r]
    assert losses[-1] < losses[0] - 1
    fields = {"step", "loss", "lr", "grad_norm", "tokens_per_s", "mfu", "memory_mb", "exposed"}
    assert fields <= records[0].keys()
    val = next(r for r in records if "val_loss" in r)
    assert val["perplexity"] == pytest.approx(np.exp(val["val_loss"]))
    assert val["bits_per_byte"] == pytest.approx(val["val_loss"] / np.log(2))  # a token is a byte
    assert "<svg" in (out / "loss.svg").read_text() and (out / "sample.txt").read_text()
    assert json.loads((out / "config.json").read_text())["steps"] == 60
    assert parameters(out, 60)


def test_same_parameters_on_any_number_of_ranks(tmp_path, text):
    """Shares of 10 samples over 3 and 4 ranks are uneven, and so are the micro-batches of 2."""
    runs = []
    for ranks, micro in ((1, 0), (1, 3), (2, 2), (3, 2), (4, 2)):
        out = tmp_path / f"{ranks}-{micro}"
        args = [*TINY, "--data", text, "--out", out, "--steps", 20, "--batch_size", 10]
        args += ["--micro_batch_size", micro, "--dtype", "float64", "--bucket_mb", 0.001]
        done = mpirun(ranks, "tests/train/scripts/all_ranks.py", *args)
        assert done.returncode == 0, done.stderr
        everywhere = [np.load(out / f"rank-{rank}.npy") for rank in range(ranks)]
        for other in everywhere[1:]:
            np.testing.assert_array_equal(everywhere[0], other)
        runs.append(everywhere[0])
    for other in runs[1:]:
        assert np.abs(other - runs[0]).max() <= 1e-10 * np.abs(runs[0]).max()


def test_resume_is_exact_also_with_dropout(tmp_path, text):
    args = ["--data", text, "--batch_size", 6, "--dropout", 0.2, "--save_interval", 5, *TINY]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert mpirun(2, "train.py", *args, "--steps", 14, "--out", whole).returncode == 0
    stopped = mpirun(2, "tests/train/scripts/stop_at.py", 7, *args, "--steps", 14, "--out", halves)
    assert stopped.returncode != 0
    again = mpirun(2, "train.py", "--resume", "--out", halves)
    assert again.returncode == 0, again.stderr
    assert "resumed at step 5" in again.stdout
    assert same(parameters(whole, 14), parameters(halves, 14))
    lines = (halves / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps)


def test_resume_on_another_number_of_ranks_sees_the_same_data(tmp_path, text):
    args = ["--data", text, "--batch_size", 6, "--save_interval", 5, "--dtype", "float64", *TINY]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert python("train.py", *args, "--steps", 10, "--out", whole).returncode == 0
    mpirun(3, "tests/train/scripts/stop_at.py", 7, *args, "--steps", 10, "--out", parts)
    assert mpirun(2, "train.py", "--resume", "--out", parts).returncode == 0
    for name, array in parameters(whole, 10).items():
        np.testing.assert_allclose(parameters(parts, 10)[name], array, rtol=1e-9, atol=1e-12)


def test_loss_that_is_not_finite_stops_with_the_batch(tmp_path, text):
    out = tmp_path / "run"
    args = ["--data", text, "--out", out, "--batch_size", 4, *TINY]
    bad = ["--optimizer", "sgd", "--learning_rate", 1e30, "--grad_clip", 0]
    done = mpirun(2, "train.py", *args, *bad)
    assert done.returncode == 2
    (saved,) = out.glob("not-finite-step-*.json")
    record = json.loads(saved.read_text())
    assert len(record["starts"]) == 4 and str(saved.name) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_that_batch_is_what_each_rank_drew(tmp_path, text):
    """With block sharding all ranks' samples were taken for rank 0's."""
    args = ["--data", text, "--out", tmp_path / "run", "--batch_size", 4, "--sharding", "block"]
    args += ["--optimizer", "sgd", "--learning_rate", 1e30, "--grad_clip", 0, *TINY]
    assert mpirun(2, "train.py", *args).returncode == 2
    (saved,) = (tmp_path / "run").glob("not-finite-step-*.json")
    starts = json.loads(saved.read_text())["starts"]
    half = 52 * 60 * 0.9 / 2  # the text to train on, in two blocks
    assert len(starts) == 4 and max(starts[:2]) < half <= min(starts[2:]) + 16


def test_default_folders_never_collide(tmp_path, text):
    args = ["--data", text, "--steps", 1, "--batch_size", 2, *TINY]
    for _ in range(2):
        assert python("train.py", *args, cwd=tmp_path).returncode == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["quick", "quick-2"]
    done = python("train.py", "--resume", "--steps", 2, cwd=tmp_path)
    assert "runs/quick-2, resumed at step 1" in done.stdout and "steps 1 -> 2" in done.stdout
    sample = minillm("generate", "--tokens", 5, cwd=tmp_path)
    assert sample.returncode == 0 and len(sample.stdout) > 3


def test_a_text_without_line_breaks(tmp_path):
    """The sample begins with a new line, which is no character of this text."""
    text = tmp_path / "line.txt"
    text.write_text("all is well that ends well. " * 60)
    options = [*TINY, "--tokenizer", "char", "--data", text, "--steps", 1, "--batch_size", 2]
    done = python("train.py", *options, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/sample.txt").read_text().strip()


def test_resume_when_the_text_has_moved_and_the_metrics_are_gone(tmp_path, text):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/text.txt").write_text(text.read_text())
    options = [*TINY, "--data", "here/text.txt", "--steps", 2, "--batch_size", 2, "--out", "run"]
    assert python("train.py", *options, cwd=tmp_path).returncode == 0
    (tmp_path / "here").rename(tmp_path / "there")
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # killed while it was written
    resume = ["--resume", "--out", "run", "--data", "there/text.txt"]
    done = python("train.py", *resume, cwd=tmp_path)
    assert done.returncode == 0 and "resumed at step 2" in done.stdout, done.stderr
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 2]
    (tmp_path / "run/metrics.jsonl").unlink()
    done = python("train.py", *resume, cwd=tmp_path)
    assert done.returncode == 0 and "validation loss unknown" in done.stdout, done.stderr
    assert not done.stderr
