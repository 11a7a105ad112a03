"""The fences of the texts are really run, and what differs is really found."""

import platform
from pathlib import Path
from unittest import SkipTest

import pytest
from sybil import Sybil

from tests.fences import difference, parse


def evaluate(tmp_path: Path, text: str) -> list[str]:
    """What is wrong with each fence of a text, in its order."""
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    document = Sybil(parsers=[parse]).parse(tmp_path / "README.md")
    found = []
    for example in document.examples():
        try:
            found.append(example.parsed and example.region.evaluator(example) or "")
        except SkipTest as skipped:
            found.append(f"skipped: {skipped}")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def fence(language: str, body: str) -> str:
    return f"\n```{language}\n{body}\n```\n"


def test_python_shares_a_namespace_and_its_output_is_compared(tmp_path):
    (tmp_path / "beside.py").write_text("answer = 42\n")
    text = (
        fence("python", "from beside import answer\nx = answer + 1")
        + fence("python", "print(x)\nprint('y')")
        + fence("output", "43\ny")
        + fence("python", "print(x)")
        + fence("output", "44")
        + fence("python", "1 / 0")
        + fence("python needs=no_such_module", "1 / 0")
    )
    right, same, other, raises, skipped = evaluate(tmp_path, text)
    assert (right, same) == ("", "")
    assert "43 is not near 44" in other
    assert "ZeroDivisionError" in raises and "needs no_such_module" in skipped


def test_how_arrays_are_printed_is_each_texts_own(tmp_path):
    pi = fence("python", "import numpy as np\nprint(np.array([np.pi]))")
    short = fence("python", "import numpy as np\nnp.set_printoptions(precision=2)")
    assert evaluate(tmp_path, short + pi + fence("output", "[3.14]")) == ["", ""]
    assert evaluate(tmp_path, pi + fence("output", "[3.14159265]")) == [""]


def test_shell_runs_in_a_folder_like_the_root(tmp_path):
    text = (
        fence("bash", "ls train.py && mkdir runs && python -c 'import minillm'; minillm --version")
        + fence("output", "train.py\n0.1.0")
        + fence("bash", "ls -d runs; exit 3")
        + fence("bash exit=3", "echo to stderr >&2; exit 3")
        + fence("output", "to stderr")
        + fence("bash", "false; true")
    )
    first, wrong_code, right_code, stops = evaluate(tmp_path, text)
    assert (first, right_code) == ("", "")
    assert "exit code 3, not 0:\nruns" in wrong_code and "exit code 1, not 0" in stops


def test_excerpts_must_stand_in_their_file(tmp_path):
    (tmp_path / "sum.cu").write_text("int a;\n    // hole 1: b\n    int b;\n    // end of hole\n")
    text = (
        fence("cuda file=sum.cu", "int a;\n// b\nint b;")
        + fence("cuda file=sum.cu", "int c;")
        + fence("cuda", "int a;")
        + fence("text", "nothing")
        + fence("mermaid", "graph TD")
    )
    same, other, unknown = evaluate(tmp_path, text)
    assert same == "" and "sum.cu does not contain:\nint c;" in other
    assert "say which file" in unknown


def test_an_output_must_follow_code(tmp_path):
    with pytest.raises(ValueError, match="an output fence that follows no code"):
        evaluate(tmp_path, fence("python", "print(1)") + "words" + fence("output", "1"))


@pytest.mark.parametrize(
    "printed, expected, words, equal",
    [
        ("loss 1.234", "loss 1.234", {}, True),
        ("loss 1.235", "loss 1.234", {}, False),
        ("loss 1.235", "loss 1.234", {"rtol": "0.01"}, True),
        ("loss 1.335", "loss 1.234", {"rtol": "0.01"}, False),
        ("time  9.0 ms\n", "time 2.0 ms", {"factor": "10"}, True),
        ("time 29.0 ms", "time 2.0 ms", {"factor": "10"}, False),
        ("time -2.0 ms", "time 2.0 ms", {"factor": "10"}, False),
        ("time 2.0 s", "time 2.0 ms", {"factor": "10"}, False),
        ("loss 1.2 at 900 tok/s", "loss 1.3 at 90 tok/s", {"factor": "20"}, True),
        ("loss 1.2 at 900 tok/s", "loss 1.3 at 90 tok/s", {"factor": "20", "rtol": "0.1"}, True),
        ("loss 1.2 at 900 tok/s", "loss 1.5 at 90 tok/s", {"factor": "20", "rtol": "0.1"}, False),
        ("90% in 0:06", "50% in 0:03", {"factor": "9", "rtol": "0.1"}, True),
        ("5 sums", "9 sums", {"factor": "9", "rtol": "0.1"}, False),
        ("loss 1.235", "loss 1.234", {"docs": platform.python_version()}, False),
        ("loss 1.235", "loss 1.234", {"docs": "3.9.0"}, True),
        ("cost 1.234", "loss 1.234", {"docs": "3.9.0"}, False),
        ("a\nb\nc\nd 1", "a\n...\nd 1", {}, True),
        ("a\nb\nc\nd 2", "a\n...\nd 1", {}, False),
        ("a\nd 1", "a\n...\nd 1\n...", {}, True),
        ("a\nd 1 2\ne", "a\nd 1 ...\n...", {}, True),
        ("a\nd 1", "...\nd 1", {}, True),
        ("a\nd 1\nb", "...\nd 1", {}, False),
        ("1,000 of 2,000", "1,000 of 2,000", {}, True),
        ("[1. 2.]", "[1. 2.]", {}, True),
        ("[1. 2. 3.]", "[1. 2.]", {}, False),
        ("1e-07", "1.0e-07", {}, True),
        ("", "1", {}, False),
        ("1\n2", "1", {}, False),
    ],
)
def test_difference(printed, expected, words, equal):
    assert (difference(printed, expected, words) is None) is equal
