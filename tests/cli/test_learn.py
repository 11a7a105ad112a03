"""`minillm learn` as a learner types it, from an empty folder."""

import functools
import json
import os
import re
import subprocess
import sys

import pytest

from minillm.learn.chapters import chapter, chapters
from tests.programs import environment, minillm, mpirun

FIRST = chapter("ch01")


def learn(folder, *words):
    return minillm("learn", *words, cwd=folder)


def test_from_start_to_solution(tmp_path):
    done = learn(tmp_path, "check", "ch01")
    assert done.returncode == 2 and "minillm learn start ch01" in done.stderr
    done = learn(tmp_path, "start", "ch01")
    place = tmp_path / "learn/ch01"
    assert done.returncode == 0 and "minillm learn check ch01" in done.stdout
    assert sorted(p.name for p in place.iterdir()) == sorted(FIRST.files)
    done = learn(tmp_path, "start", "1")
    assert done.returncode == 2 and "started already" in done.stderr

    done = learn(tmp_path, "check", "ch01")
    assert done.returncode == 1 and done.stdout.count("· 1.") == len(FIRST.exercises)
    assert "not written yet" in done.stdout and "minillm learn hint ch01 1" in done.stdout

    done = learn(tmp_path, "solution", "ch01")
    assert done.returncode == 0 and "replace this line" not in done.stdout
    for file, text in FIRST.solutions().items():
        assert text in done.stdout
        (place / file).write_text(text, encoding="utf-8")
    done = learn(tmp_path, "check", "ch01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✓ 1.") == len(FIRST.exercises)
    assert "all right. Train with" in done.stdout
    assert "ch01 is all right" in learn(tmp_path, "hint", "ch01").stdout
    done = learn(tmp_path, "list")
    line = next(line for line in done.stdout.splitlines() if line.startswith("ch01"))
    assert "●" * len(FIRST.exercises) in line and line.endswith("done")
    assert max(map(len, done.stdout.splitlines())) < 80
    assert len(done.stdout.splitlines()) == len(chapters()) + 2

    done = learn(tmp_path, "reset", "ch01")
    kept = place / (FIRST.files[0] + ".1")
    assert f"is kept as {kept.name}" in done.stdout
    assert kept.read_text(encoding="utf-8") == FIRST.solutions()[FIRST.files[0]]
    assert learn(tmp_path, "check", "ch01", "1").returncode == 1
    done = learn(tmp_path, "reset", "ch01")
    assert "kept" not in done.stdout and len(list(place.glob("*.1*"))) == len(FIRST.files)


def test_hints_rise(tmp_path):
    hints = FIRST.exercises[1].hints
    for count in (1, 2, 3, 3):
        done = learn(tmp_path, "hint", "ch01", "1.2")
        assert [hint in done.stdout for hint in hints] == [i < count for i in range(3)]
        assert ("minillm learn solution ch01" in done.stdout) is (count == 3)


def test_one_exercise_at_a_time(tmp_path):
    """Its solution gives no other away; training is proposed when it would be accepted."""
    learn(tmp_path, "start", "ch01")
    place = tmp_path / "learn/ch01" / FIRST.files[0]
    done = learn(place.parent, "solution", "ch01", "4")
    assert "def matmul_backward(" in done.stdout and "da = dc @" in done.stdout
    assert "def order" not in done.stdout and '"""' not in done.stdout
    place.write_text("print('half way')\n" + FIRST.solutions()[FIRST.files[0]], encoding="utf-8")
    done = learn(place.parent, "check", "ch01", "4")  # from inside learn/: it finds the files
    assert done.returncode == 0 and "\nright\n" in done.stdout and "Train" not in done.stdout
    assert done.stdout.startswith("half way\n✓ 1.4")
    assert not (place.parent / "learn").exists()
    done = learn(tmp_path, "list")
    assert "○○○●○  started" in done.stdout and "Next: minillm learn start ch00" in done.stdout


@pytest.mark.parametrize(
    "text", ["{", "3", "[]", '{"ch01": 3}', '{"ch01": {"passed": 3}}', '{"ch01": {"hints": [1]}}']
)
def test_damaged_progress_is_said(text, tmp_path):
    (tmp_path / "learn").mkdir()
    (tmp_path / "learn/progress.json").write_text(text)
    done = learn(tmp_path, "list")
    assert done.returncode == 2 and "progress.json is damaged: delete it" in done.stderr


def test_files_that_cannot_be_used_are_one_line(tmp_path):
    """Whoever may be root in here: folders where files belong, and the other way round."""
    (tmp_path / "learn/ch00/figures.py").mkdir(parents=True)
    (tmp_path / "learn/ch01").write_text("")
    for words in ("reset", "ch00"), ("start", "ch01"):
        done = learn(tmp_path, *words)
        assert done.returncode == 2 and f"learn/{words[1]}" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


def test_a_terminal_gets_whole_words_and_whole_lines(tmp_path):
    """Hints are folded at its width; code is not cut there."""

    def shown(*words):
        ours, theirs = os.openpty()
        command = [sys.executable, "-m", "minillm.cli", "learn", *words]
        settings = environment() | {"COLUMNS": "50", "TERM": "xterm", "NO_COLOR": "1"}
        process = subprocess.Popen(command, cwd=tmp_path, env=settings, stdout=theirs)
        os.close(theirs)
        text = b""
        while part := read_or_nothing(ours):
            text += part
        os.close(ours)
        assert process.wait(60) == 0
        return text.decode().replace("\r\n", "\n")

    hint = shown("hint", "ch01", "2")
    assert max(map(len, hint.splitlines())) <= 50
    assert FIRST.exercises[1].hints[0] in " ".join(hint.split())
    solution = re.sub(r"\x1b\[[\d;]*m", "", shown("solution", "ch01"))
    assert solution == FIRST.solutions()[FIRST.files[0]]


def read_or_nothing(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's end of file, on a terminal
        return b""


@pytest.mark.parametrize(
    "words, says",
    [
        (["strat"], "unknown command 'strat'"),
        (["start"], "write it as: minillm learn start CHAPTER"),
        (["check", "ch01", "9"], "ch01 has exercises 1 to"),
        (["check", "ch77"], "no chapter 'ch77'"),
        (["check", "ch01", "--fast"], "write it as"),
        (["train"], "say whose functions"),
        (["train", "--use", "ch77"], "no chapter 'ch77'"),
        (["train", "--use", "ch05=mine"], "write --use ch05 or --use ch05=solution"),
        (["train", "--use", "ch05", "--ranks", "x"], "--ranks 'x'"),
        (["train", "--use", "ch05"], "ch05 is not started"),
        (["train", "--use", "ch05=solution", "--use", "5=solution", "--nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(words, says, tmp_path):
    done = learn(tmp_path, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "learn").exists()


def test_ranks_refuse_together(tmp_path):
    """One line, whichever rank says it; of two --ranks the last counts, once."""
    assert learn(tmp_path, "start", "ch05").returncode == 0
    done = learn(tmp_path, "train", "--use", "ch05", "--ranks", "3", "--ranks=2", "--steps", "1")
    assert done.returncode == 2 and done.stderr.count("is not right yet") == 1, done.stderr
    assert "Traceback" not in done.stderr and "rank 1" not in done.stderr


def test_training_refuses_functions_that_are_not_right(tmp_path):
    assert learn(tmp_path, "start", "ch05").returncode == 0
    done = learn(tmp_path, "train", "--use", "ch05", "--steps", "1")
    assert done.returncode == 2 and "is not right yet: minillm learn check ch05" in done.stderr


SHORT = [
    "--steps=3", "--log_interval=1", "--eval_batches=1", "--sample_tokens=0", "--batch_size=4",
    "--n_layer=1", "--n_embd=32", "--n_head=2", "--block_size=16",
]  # fmt: skip


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The losses of the engine's own functions, on two ranks, by options."""

    @functools.cache
    def trained(options):
        folder = tmp_path_factory.mktemp("ours")
        done = mpirun(2, "train.py", *SHORT, *options, "--out", folder / "run", cwd=folder)
        assert done.returncode == 0, done.stderr
        return losses(folder / "run")

    return trained


# Those that take different places are tried together.
TOGETHER = ["ch00 ch02 ch05 ch08 ch11", "ch01 ch03 ch10", "ch06 ch07 ch13", "ch09", "ch12"]


def test_every_function_is_trained_with():
    named = " ".join(TOGETHER).split()
    assert sorted(named) == [name for name, of in chapters().items() if of.plugs]


@pytest.mark.parametrize("names", TOGETHER)
def test_training_with_the_solution_is_training(names, ours, tmp_path):
    """Its functions are called, and train what ours do."""
    plugs = [plug for name in names.split() for plug in chapter(name).plugs]
    options = " ".join(dict.fromkeys(plug.options for plug in plugs)).split()
    uses = [word for name in names.split() for word in ("--use", f"{name}=solution")]
    words = ["train", *uses, "--ranks", "2", *SHORT, *options, "--out", tmp_path / "a"]
    done = learn(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [line for line in done.stdout.splitlines() if " calls, in " in line]
    assert len(counts) == len(plugs)
    assert not any(": 0 calls" in line for line in counts), counts
    rel = 0.01 if "--dropout" in options else 1e-4  # another mask from the same seed
    assert losses(tmp_path / "a") == pytest.approx(ours(tuple(options)), rel=rel)
