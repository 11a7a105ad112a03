import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minillm
from minillm.data import python_docs
from minillm.errors import UserError


@pytest.fixture(scope="module")
def text():
    return python_docs.read_text()


def test_it_is_a_megabyte_of_prose(text):
    assert 500_000 < len(text) < 3_000_000
    words = re.findall(r"[a-z]+", text.lower())
    assert words.count("the") > len(words) / 25  # English: about one word in 15
    assert len(text.encode()) < 1.001 * len(text)


def test_no_doctests_tables_rules_or_repetition(text):
    assert not re.search(r"^(>>>|\+--|\|)|::=|``|^[=*~-]{3,}$|  ", text, re.M)
    paragraphs = text.rstrip("\n").split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert all(p == p.strip() and p for p in paragraphs)


def test_same_text_in_another_process(text):
    code = "import sys; from minillm.data import python_docs; print(python_docs.digest()); " \
           "sys.stdout.write(python_docs.read_text())"  # fmt: skip
    root = str(Path(minillm.__file__).parents[1])
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "7", "PYTHONUTF8": "1"},
    ).stdout.decode()  # fmt: skip
    assert other == f"{python_docs.digest()}\n{text}"


def test_markup_is_taken_off():
    source = """\
    Return the :class:`int` of ``x``, *always* as a `number', or call "__int__()".

        >>> int("1")
        1

    name -- too short
    The class::
    """
    assert list(python_docs.prose(source)) == [
        "Return the int of x, always as a number, or call __int__()."
    ]


def small_library(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""Only one short sentence stands in here."""\n')


def test_without_the_language_reference(tmp_path, monkeypatch):
    small_library(tmp_path, "abc.py", "json/__init__.py")
    monkeypatch.setattr(os, "__file__", str(tmp_path / "os.py"))
    assert "docstrings of 2 modules" in python_docs.describe()
    assert "language reference" not in python_docs.describe()
    assert python_docs.read_text() == "Only one short sentence stands in here.\n"
    before = python_docs.digest()
    small_library(tmp_path, "heapq.py")
    assert python_docs.digest() != before


def test_without_any_source(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "__file__", str(tmp_path / "os.py"))
    with pytest.raises(UserError, match="--data"):
        python_docs.read_text()
