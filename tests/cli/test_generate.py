"""`minillm generate` on a small run."""

import io
import sys

import pytest

from minillm.cli import main
from tests.programs import minillm, python, run

TRAIN = [
    "--tokenizer", "char", "--block_size", "8", "--n_layer", "1", "--n_head", "2", "--n_embd", "16",
    "--eval_batches", "1", "--batch_size", "8", "--steps", "60", "--warmup_steps", "0",
    "--sample_tokens", "0", "--learning_rate", "0.01", "--dtype", "float64",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("generate")
    (path / "text.txt").write_text("déjà vu, the cat sat on the mat.\n" * 60)
    done = python("train.py", *TRAIN, "--data", path / "text.txt", "--out", path / "runs/one")
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def generate(folder, monkeypatch, capsys):
    """Runs it in the folder of the run; exit code, stdout, stderr."""
    monkeypatch.chdir(folder)

    def call(*argv):
        code = main(["generate", *argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_same_seed_same_text_cached_or_not_beyond_the_block_size(generate):
    argv = ["--tokens", "40", "--prompt", "the"]
    code, text, err = generate(*argv)
    assert (code, err) == (0, "") and text.startswith("the") and len(text) == len("the") + 40 + 1
    assert generate(*argv, "--no_cache") == generate(*argv) == (0, text, "")
    assert generate(*argv, "--seed", "5")[1] != text
    greedy = generate(*argv, "--temperature", "0")
    assert greedy == generate(*argv, "--top_k", "1") == generate(*argv, "--top_p", "1e-9")


def test_prompt_from_standard_input(generate, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat"))
    assert generate("--prompt", "-", "--tokens", "0") == (0, "the cat\n", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert generate("--prompt", "-", "--tokens", "3")[0] == 0


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--tokens", "-1"], "--tokens -1"),
        (["--seed", "-1"], "--seed -1"),
        (["--top_k", "-1"], "--top_k -1"),
        (["--top_p", "0"], "top_p is 0.0"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--prompt", "the gnu"], "prompt 'the gnu': character 'g'"),
        (["--out", "nowhere"], "no checkpoint in nowhere"),
    ],
)
def test_refused_in_one_line_before_anything_is_printed(generate, argv, says):
    code, out, err = generate(*argv)
    assert (code, out, err.count("\n")) == (2, "", 1) and says in err


def test_terminal_without_these_letters(folder, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = minillm("generate", "--prompt", "déjà", "--tokens", 2, cwd=folder)
    assert done.returncode == 0 and done.stdout.startswith("d?j?"), done.stderr


def test_closed_pipe_ends_quietly(folder):
    command = f"{sys.executable} -m minillm.cli generate --prompt 'the cat' --tokens 999"
    done = run(["sh", "-c", f"{command} | head -c 5"], cwd=folder)
    assert (done.stdout, done.stderr) == ("the c", "")
