"""Answers are judged, whatever they do; on a chapter as small as it can be."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels import registry
from minillm.learn import Plug, Wrong, holes
from minillm.learn.chapters import chapter, read
from minillm.learn.judge import judge, load
from minillm.learn.plug import plugged
from tests.learn.answers import judged

EXAMPLE = read(Path(__file__).parent / "example/ch42_example")
WRONG = [(n, wrong) for n, e in enumerate(EXAMPLE.exercises, 1) for wrong in e.wrong]


def test_solutions_pass_and_starts_fail(tmp_path):
    said = [judged(EXAMPLE, n, EXAMPLE.solutions(), tmp_path) for n in (1, 2)]
    assert [v.state for v in said] == ["passed", "passed"]
    assert said[1].message == "1000 takes 9"
    said = [judged(EXAMPLE, n, EXAMPLE.starts(), tmp_path) for n in (1, 2)]
    assert [v.state for v in said] == ["unwritten", "unwritten"]
    assert str(tmp_path / "rows.py") in said[0].message


@pytest.mark.parametrize("number, wrong", WRONG, ids=[w.what for _, w in WRONG])
def test_wrong_answers_are_rejected(number, wrong, tmp_path):
    """Among them one that never ends, one that raises and one that crashes."""
    verdict = judged(EXAMPLE, number, EXAMPLE.wrongly(wrong), tmp_path)
    assert verdict.state == "wrong" and wrong.says in verdict.message


def test_a_file_that_does_not_run_is_said_with_its_line(tmp_path):
    verdict = judged(EXAMPLE, 1, {"rows.py": "x = 1\ndef mean(x:\n"}, tmp_path)
    assert verdict.state == "wrong" and "rows.py:2" in verdict.message
    verdict = judged(EXAMPLE, 1, {"rows.py": "import nothing_called_so\n"}, tmp_path)
    assert "ModuleNotFoundError" in verdict.message and "rows.py:1" in verdict.message
    verdict = judged(EXAMPLE, 1, {"rows.py": "x = 1\n"}, tmp_path)
    assert verdict.message == "the work file has no 'mean'"
    (tmp_path / "rows.py").write_bytes(b"x = '\xff'\n")
    assert "SyntaxError" in judge(EXAMPLE, tmp_path, 1).message
    verdict = judged(EXAMPLE, 1, {"rows.py": "raise SystemExit(0)\n"}, tmp_path)
    assert verdict.state == "wrong" and "SystemExit" in verdict.message
    (tmp_path / "rows.py").unlink()
    with pytest.raises(UserError, match="rows.py is missing: minillm learn reset ch42"):
        judge(EXAMPLE, tmp_path, 1)


def test_the_line_of_an_endless_loop_is_said(tmp_path):
    solved = EXAMPLE.solutions()["rows.py"]
    loop = {"rows.py": solved.replace("n //= 2", "n = n")}
    assert re.search(
        r"after 2 s: .* at rows.py:1[4-6]: ", judged(EXAMPLE, 2, loop, tmp_path).message
    )
    stubborn = (
        "while True:\n    try:\n        while True:\n            pass\n    except:\n        pass\n"
    )
    assert "no answer after 2 s" in judged(EXAMPLE, 2, {"rows.py": stubborn}, tmp_path).message


def test_an_answer_cannot_declare_itself_right(tmp_path):
    """Leaving with exit code 0 before the check has looked is no pass."""
    verdict = judged(EXAMPLE, 1, {"rows.py": "import os; os._exit(0)\n"}, tmp_path)
    assert verdict.state == "wrong" and "died: exit code 0" in verdict.message


def test_what_a_check_needs_and_does_not_find_is_said(tmp_path):
    first, second = EXAMPLE.exercises
    needy = replace(EXAMPLE, exercises=(replace(first, needs=("no-such-program",)), second))
    verdict = judged(needy, 1, EXAMPLE.solutions(), tmp_path)
    assert verdict.state == "not checked" and "no-such-program" in verdict.message


def test_a_wrong_answer_must_change_one_place():
    with pytest.raises(ValueError, match="2 times, not once"):
        EXAMPLE.wrongly(Wrong("", "return", "", says=""))


def test_holes():
    source = EXAMPLE.source("rows.py") + "\n// hole 3: in C\n    int x;\n// end of hole\n"
    assert holes.holes(source) == [1, 2, 3]
    start = holes.start(source, 42)
    assert "x.sum" not in start and "count = 0" not in start and "int x" not in start
    assert 'raise NotImplementedError("exercise 42.2: replace' in start
    assert "\n// exercise 42.3: replace" in start
    assert holes.unwritten(start, 42, 3) and not holes.unwritten(start, 42, 4)
    solved = holes.solution(source)
    assert holes.answer(source, 1).startswith("def mean(x):\n    # sum each row")
    assert "hole" not in solved and not holes.unwritten(solved, 42, 1)
    assert "# sum each row and divide\n    return x.sum(-1)" in solved


@pytest.mark.parametrize("word", ["ch99", "x", "", "ch1x", "123"])
def test_no_such_chapter(word):
    with pytest.raises(UserError, match="no chapter .*: choose one of ch0"):
        chapter(word)


def test_plugged_functions_run_and_are_counted(tmp_path):
    (tmp_path / "rows.py").write_text(EXAMPLE.solutions()["rows.py"])
    sums = registry.declared()["sum_of_squares"]
    plugs = (
        Plug("mean", "kernel sum_of_squares", exercise=1),
        Plug("halves", "minillm.learn.compare:expect", exercise=2, adapt=lambda f: lambda n: -f(n)),
    )
    of = replace(EXAMPLE, plugs=plugs)
    from minillm.learn import compare

    before = compare.expect
    x = np.ones(8)
    with plugged(of, load(of, tmp_path)) as used:
        assert sums(x) == 1
        assert compare.expect(8) == -3 and compare.expect(8) == -3
        assert [each.calls for each in used] == [1, 2]
    assert sums(x) == 8 and compare.expect is before
    assert "yours" not in sums.implementations() and not sums.added


def test_plugs_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "rows.py").write_text("")
    with (
        pytest.raises(UserError, match="the work file has no function 'mean'"),
        plugged(EXAMPLE, load(EXAMPLE, tmp_path)),
    ):
        pass
    with (
        pytest.raises(UserError, match="builds nothing that training uses"),
        plugged(replace(EXAMPLE, plugs=()), load(EXAMPLE, tmp_path)),
    ):
        pass
