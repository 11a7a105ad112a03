"""`minillm learn`: the exercises of the tutorials, laid out, checked, hinted at, and put to use.

    list                     chapters, time, progress
    start ch05               lay the chapter's work files out in ./learn/ch05
    check ch05 [2]           judge the exercises, or one; exit code 0 if all are right, else 1
    hint ch05 [2]            one hint more for the first exercise that is not right yet, or for one
    solution ch05 [2]        print the solution, or the code of one exercise
    reset ch05               begin again; changed files are kept under another name
    train --use ch05 ...     train.py with your functions in the place of the engine's

The texts are in tutorials/. The environment variable MINILLM_LEARN names another folder for your
files. `--use ch05=solution` takes the solution's functions; other options go to train.py.
"""

import os
import shutil
import sys
import textwrap
from pathlib import Path
from threading import Timer

from minillm.errors import UserError
from minillm.learn import holes
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
    try:
        return _run(command, rest)
    except BrokenPipeError:
        raise
    except OSError as error:  # not allowed to read or write; the disk is full
        place = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{place}{error.strerror or error}") from None


def _run(command: str, rest: list[str]) -> int:
    if command == "list":
        _arguments(command, rest, 0, 0)
        return show_list()
    words = _arguments(command, rest, 1, 2 if command in ("check", "hint", "solution") else 1)
    of = chapter(words[0])
    number = _exercise(of, words[1]) if len(words) > 1 else 0
    if command in ("start", "reset"):
        return {"start": start, "reset": reset}[command](of)
    return {"check": check, "hint": hint, "solution": show_solution}[command](of, number)


def show_list() -> int:
    """Print the chapters with their time and progress, and how to go on."""
    desk, every = Desk(), chapters()
    width = max(len(of.title) for of in every.values())
    done = total = 0
    onwards = ""
    for name, of in every.items():
        passed, count = desk.passed(of), len(of.exercises)
        dots = "".join("●" if i + 1 in passed else "○" for i in range(count))
        state = "started" if desk.started(of) else ""
        if len(passed) == count:
            state = "done"
        elif not onwards:
            onwards = f" Next: minillm learn {'check' if state else 'start'} {name}"
        print(f"{name}  {of.title:<{width}}  {of.minutes} min  {dots:<5}  {state}".rstrip())
        done, total = done + len(passed), total + count
    print(f"\n{done} of {total} exercises are right.{onwards}")
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
        exercise = of.exercises[each - 1]
        title = f"{of.number}.{each}  {exercise.title}"
        waiting = f"… {title}: still checking, {exercise.limit:.0f} s at most"
        timer = Timer(3, print, [waiting], {"file": sys.stderr})
        if sys.stderr.isatty():
            timer.start()
        try:
            verdict = desk.check(of, each)
        finally:
            timer.cancel()
        verdicts.append(verdict)
        said = f": {verdict.message}" if verdict.passed and verdict.message else ""
        _say(f"{_MARKS[verdict.state]} {title}{said}")
    wrong = [v for v in verdicts if not v.passed]
    if wrong:
        order = "wrong", "unwritten", "not checked"
        _explain(of, min(wrong, key=lambda v: order.index(v.state)))
        return 1
    print("\nall right" if len(verdicts) > 1 else "\nright", end="")
    used = sorted({plug.function for plug in of.plugs})
    usable = used and {plug.exercise for plug in of.plugs} <= set(desk.passed(of))
    print(f". Train with {', '.join(used)}: minillm learn train --use {of.name}" if usable else "")
    return 0


def _explain(of: Chapter, verdict: Verdict) -> None:
    _say(f"\n{of.number}.{verdict.number}  {verdict.message}")
    if verdict.state != "not checked":
        print(f"     a hint: minillm learn hint {of.name} {verdict.number}")


def hint(of: Chapter, number: int) -> int:
    """Print one hint more than the last time."""
    desk = Desk()
    left = [i for i in range(1, len(of.exercises) + 1) if i not in desk.passed(of)]
    if not number and not left:
        print(f"{of.name} is all right; a hint all the same: minillm learn hint {of.name} 1")
        return 0
    number = number or left[0]
    every = of.exercises[number - 1].hints
    taken = desk.hints(of, number)
    print(f"{of.number}.{number}  {of.exercises[number - 1].title}")
    for i, text in enumerate(taken, 1):
        _say(f"\nhint {i} of {len(every)}: {text}")
    if len(taken) == len(every):
        print(f"\nThere are no more; the solution: minillm learn solution {of.name} {number}")
    return 0


def show_solution(of: Chapter, number: int) -> int:
    """Print the chapter's work files with their holes filled, or what goes into one exercise's."""
    texts = of.solutions()
    if number:
        texts = {file: holes.answer(of.source(file), number) for file in of.files}
    texts = {file: text for file, text in texts.items() if text}
    for file, text in texts.items():
        comment = "//" if file.endswith(".cu") else "#"
        if len(texts) > 1:
            print(f"{comment} --- {file} " + "-" * (70 - len(file)))
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.syntax import Syntax

            lexer = "cuda" if file.endswith(".cu") else "python"
            colours = Syntax("", lexer, theme="ansi_dark", background_color="default")
            Console().print(colours.highlight(text), soft_wrap=True, end="")  # whole lines
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
    if not number.isdecimal() or not 1 <= int(number) <= len(of.exercises):
        raise UserError(f"{of.name} has exercises 1 to {len(of.exercises)}, not {word!r}")
    return int(number)


def _say(text: str) -> None:
    """Print prose; a terminal gets it folded between words."""
    if sys.stdout.isatty():
        width = min(shutil.get_terminal_size().columns, 100)
        folded = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
        text = "\n".join(folded.fill(line) for line in text.splitlines())
    print(text, flush=True)


def _shown(path: Path) -> str:
    """A path as one would type it here."""
    path = path.resolve()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
