"""`minillm learn`: the exercises of the tutorials, laid out, checked, hinted at, and put to use.

    list                     chapters, time, progress
    start ch05               lay the chapter's work files out in ./learn/ch05 (or MINILLM_LEARN)
    check ch05 [2]           judge the exercises, or one; exit code 0 if all are right, else 1
    hint ch05 [2]            one hint more for the first exercise that is not right yet, or for one
    solution ch05            print the solution
    reset ch05               begin again; changed files are kept under another name
    train --use ch05 ...     train.py with your functions in the place of the engine's

`--use ch05=solution` takes the solution's functions; other options go to train.py.
"""

import os
import sys
from pathlib import Path

from minillm.errors import UserError
from minillm.learn.chapters import Chapter, chapter, chapters
from minillm.learn.desk import Desk
from minillm.learn.judge import Verdict

_MARKS = {"passed": "✓", "wrong": "✗", "unwritten": "·", "not checked": "?"}
_COMMANDS = ("list", "start", "check", "hint", "solution", "reset", "train")


def main(argv: list[str]) -> int:
    """Run `minillm learn` with these arguments; the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    command, *rest = argv
    if command not in _COMMANDS:
        raise UserError(f"unknown command {command!r}: choose {', '.join(_COMMANDS)}")
    if command == "train":
        from minillm.cli.learn_train import train

        return train(rest)
    if command == "list":
        _arguments(command, rest, 0, 0)
        return show_list()
    words = _arguments(command, rest, 1, 2 if command in ("check", "hint") else 1)
    of = chapter(words[0])
    number = _exercise(of, words[1]) if len(words) > 1 else 0
    if command == "check":
        return check(of, number)
    if command == "hint":
        return hint(of, number)
    return {"start": start, "solution": show_solution, "reset": reset}[command](of)


def show_list() -> int:
    """Print the chapters with their time and progress."""
    desk = Desk()
    done = total = 0
    for name, of in chapters().items():
        passed = desk.passed(of)
        dots = "".join("●" if i + 1 in passed else "○" for i in range(len(of.exercises)))
        state = "done" if len(passed) == len(of.exercises) else "started"
        state = state if desk.started(of) else ""
        print(f"{name}  {of.title:<52} {of.minutes:>3} min  {dots:<6} {state}".rstrip())
        done, total = done + len(passed), total + len(of.exercises)
    print(f"\n{done} of {total} exercises are right. To begin one: minillm learn start ch01")
    return 0


def start(of: Chapter) -> int:
    """Lay the work files out and say what to do."""
    paths = Desk().start(of)
    print(f"{of.name} {of.title}: {len(of.exercises)} exercises, about {of.minutes} minutes")
    for number, exercise in enumerate(of.exercises, 1):
        print(f"  {of.number}.{number}  {exercise.title}")
    print(f"\nthe text   {_shown(of.folder / 'README.md')}")
    for path in paths:
        print(f"your file  {path}")
    print(f"then       minillm learn check {of.name}")
    return 0


def check(of: Chapter, number: int) -> int:
    """Judge exercises and print a line each, and what is wrong with the first that is not right."""
    desk, verdicts = Desk(), []
    for each in [number] if number else range(1, len(of.exercises) + 1):
        verdict = desk.check(of, each)
        verdicts.append(verdict)
        print(f"{_MARKS[verdict.state]} {of.number}.{each}  {of.exercises[each - 1].title}", end="")
        print(f": {verdict.message}" if verdict.passed and verdict.message else "", flush=True)
    wrong = [v for v in verdicts if not v.passed]
    if not wrong:
        print("\nall right" if len(verdicts) > 1 else "\nright", end="")
        used = sorted({plug.function for plug in of.plugs})
        print(f". Train with {', '.join(used)}: minillm learn train --use {of.name}" * bool(used))
        return 0
    first = min(wrong, key=lambda v: ("wrong", "unwritten", "not checked").index(v.state))
    _explain(of, first)
    return 1


def _explain(of: Chapter, verdict: Verdict) -> None:
    print(f"\n{of.number}.{verdict.number}  {verdict.message}")
    if verdict.state != "not checked":
        print(f"     a hint: minillm learn hint {of.name} {verdict.number}")


def hint(of: Chapter, number: int) -> int:
    """Print one hint more than the last time."""
    desk = Desk()
    left = [i for i in range(1, len(of.exercises) + 1) if i not in desk.passed(of)]
    number = number or (left[0] if left else len(of.exercises))
    every = of.exercises[number - 1].hints
    taken = desk.hints(of, number)
    print(f"{of.number}.{number}  {of.exercises[number - 1].title}")
    for i, text in enumerate(taken, 1):
        print(f"\nhint {i} of {len(every)}: {text}")
    if len(taken) == len(every):
        print(f"\nThere are no more; the solution: minillm learn solution {of.name}")
    return 0


def show_solution(of: Chapter) -> int:
    """Print the chapter's work files with their holes filled, in colour on a terminal."""
    for file, text in of.solutions().items():
        comment = "//" if file.endswith(".cu") else "#"
        if len(of.files) > 1:
            print(f"{comment} --- {file} " + "-" * (70 - len(file)))
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.syntax import Syntax

            Console().print(Syntax(text, "cuda" if file.endswith(".cu") else "python"))
        else:
            print(text, end="")
    return 0


def reset(of: Chapter) -> int:
    """Lay the work files out again."""
    for path, old in Desk().reset(of):
        print(f"{path} is kept as {old.name}")
    print(f"{of.name} begins again in {Desk().place(of)}")
    return 0


def _arguments(command: str, rest: list[str], least: int, most: int) -> list[str]:
    wanted = " CHAPTER" * least + " [EXERCISE]" * (most - least)
    if rest and rest[0] in ("-h", "--help"):
        print(f"usage: minillm learn {command}{wanted}")
        raise SystemExit(0)
    if not least <= len(rest) <= most or any(word.startswith("-") for word in rest):
        raise UserError(f"write it as: minillm learn {command}{wanted}")
    return rest


def _exercise(of: Chapter, word: str) -> int:
    """The number in "2" or "5.2"."""
    number = word.removeprefix(f"{of.number}.")
    if not number.isdigit() or not 1 <= int(number) <= len(of.exercises):
        raise UserError(f"{of.name} has exercises 1 to {len(of.exercises)}, not {word!r}")
    return int(number)


def _shown(path: Path) -> str:
    """A path as one would type it here."""
    path = path.resolve()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
