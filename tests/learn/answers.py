"""Answers of a chapter, written out and judged: start files, solutions, wrong answers."""

from pathlib import Path

from minillm.learn.chapters import Chapter
from minillm.learn.judge import Verdict, judge


def judged(of: Chapter, number: int, files: dict[str, str], folder: Path) -> Verdict:
    """The verdict on exercise `number` of these work files."""
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return judge(of, folder, number)


def started_without_marks(of: Chapter) -> dict[str, str]:
    """Start files of CUDA C++ as one leaves them who deletes the line to replace, and no more."""
    return {
        file: "".join(
            line
            for line in text.splitlines(keepends=True)
            if not (file.endswith(".cu") and line.strip().startswith("// exercise "))
        )
        for file, text in of.starts().items()
    }
