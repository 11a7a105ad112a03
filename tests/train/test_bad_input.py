"""Bad input to train.py: one line that says what to do, exit code 2, nothing overwritten."""

import os
import shutil
from importlib.util import find_spec

import pytest

from tests.programs import mpirun, python

TINY = [
    "--tokenizer", "byte", "--block_size", "16", "--n_layer", "1", "--n_head", "2", "--n_embd",
    "16", "--eval_batches", "1", "--batch_size", "2", "--steps", "1", "--sample_tokens", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Some texts, and a finished run."""
    path = tmp_path_factory.mktemp("bad")
    (path / "good.txt").write_text("all is well that ends well. " * 40)
    (path / "other.txt").write_text("this is another text. " * 60)
    (path / "empty.txt").write_text("")
    (path / "short.txt").write_text("too short")
    (path / "binary.txt").write_bytes(bytes(range(256)) * 8)
    done = python("train.py", *TINY, "--data", path / "good.txt", "--out", path / "run")
    assert done.returncode == 0, done.stderr
    return path


def refused(done, *words):
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def files(path):
    return {p: p.stat().st_mtime_ns for p in path.rglob("*")}


@pytest.mark.parametrize(
    "options, words",
    [
        (["--data", "empty.txt"], ["empty.txt", "empty"]),
        (["--data", "short.txt"], ["block_size"]),
        (["--data", "binary.txt"], ["binary.txt"]),
        (["--data", "missing.txt"], ["missing.txt"]),
        (["--vocab_size", "300"], ["vocab_size 300", "has 256"]),
        (["--n_embd", "15"], ["n_embd 15", "n_head 2"]),
        (["--batch_size", "0"], ["--batch_size 0"]),
        (["--out", "run"], ["already holds a run", "--resume"]),
        (["--resume", "--out", "nowhere"], ["no checkpoint in", "nowhere"]),
        (["--resume", "--out", "run", "--n_embd", "32"], ["cannot change", "n_embd 16 -> 32"]),
        (["--resume", "--out", "run/checkpoints/step-00000001"], ["is a checkpoint"]),
        (["--out", "good.txt/run"], ["cannot write", "--out"]),
        (["--tokenizer", "char", "--prompt", "§"], ["prompt '§'", "U+00A7"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else None,
)
def test_refused_in_one_line(folder, options, words):
    base = [] if "--resume" in options else [*TINY, "--data", "good.txt", "--out", "new"]
    before = files(folder)
    merged = dict(zip(base[::2], base[1::2]))
    rest = [word for word in options if word == "--resume"]
    named = [word for word in options if word != "--resume"]
    merged.update(zip(named[::2], named[1::2]))
    argv = [*rest, *(word for pair in merged.items() for word in pair)]
    refused(python("train.py", *argv, cwd=folder), *words)
    assert files(folder).keys() == before.keys()
    assert all(files(folder)[p] == t for p, t in before.items() if p.is_file())


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_device_that_is_not_there(folder):
    argv = [*TINY, "--data", folder / "good.txt", "--out", folder / "new3", "--device", "cuda"]
    refused(python("train.py", *argv), "'cuda' needs CuPy")
    assert not (folder / "new3").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(folder):
    (folder / "locked").mkdir(mode=0o500)
    argv = [*TINY, "--data", "good.txt", "--out", "locked/run"]
    refused(python("train.py", *argv, cwd=folder), "cannot write", "locked")


def test_more_ranks_than_samples(folder):
    argv = [*TINY, "--data", folder / "good.txt", "--out", folder / "new"]
    refused(mpirun(3, "train.py", *argv), "batch_size 2 over 3 copies")


def test_all_ranks_leave_together_when_the_data_is_refused(folder):
    argv = [*TINY, "--data", folder / "empty.txt", "--out", folder / "new2"]
    refused(mpirun(2, "train.py", *argv), "empty.txt")


def test_unknown_option_on_many_ranks_is_said_once(folder):
    done = mpirun(2, "train.py", "--stepz", "3")
    assert done.returncode == 2
    assert done.stderr.count("--steps") >= 1 and done.stderr.count("Unrecognized options:") == 1


def test_truncated_checkpoint(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    (model,) = (tmp_path / "run").glob("checkpoints/*/model.safetensors")
    os.truncate(model, 100)
    refused(python("train.py", "--resume", "--out", tmp_path / "run"), "damaged", "100 of")


def test_tokenizer_that_does_not_match_the_checkpoint(folder, tmp_path):
    """The text behind the checkpoint's tokens was replaced."""
    shutil.copytree(folder / "run", tmp_path / "run")
    text, kept = folder / "good.txt", (folder / "good.txt").read_text()
    text.write_text((folder / "other.txt").read_text())
    try:
        done = python("train.py", "--resume", "--out", tmp_path / "run", "--steps", 2)
    finally:
        text.write_text(kept)
    refused(done, "the text or the tokenizer", "start a new run")
    assert (tmp_path / "run/config.json").read_text() == (folder / "run/config.json").read_text()
