"""Work files: one source holds the solution, and by cutting its holes becomes the start file.

    def mean(x):
        # hole 1: the mean of each row, (N,)
        return x.sum(-1) / x.shape[-1]
        # end of hole

In CUDA C++ the comments begin with `//`. The learner gets

        # Exercise 5.1: the mean of each row, (N,)
        raise NotImplementedError("exercise 5.1: replace this line with your code")
"""

import re

_HOLE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<mark>#|//) hole (?P<number>\d+): (?P<what>.*)\n"
    r"(?P<code>(?:.*\n)*?)"
    r"[ \t]*(?P=mark) end of hole\n",
    re.M,
)
_TODO = "replace this line with your code"


def holes(source: str) -> list[int]:
    """The exercise numbers of the holes of a source, in its order."""
    return [int(match["number"]) for match in _HOLE.finditer(source)]


def start(source: str, chapter: int) -> str:
    """The source with its holes empty."""

    def cut(match: re.Match[str]) -> str:
        indent, mark, name = match["indent"], match["mark"], f"{chapter}.{match['number']}"
        todo = f'raise NotImplementedError("exercise {name}: {_TODO}")'
        if mark == "//":
            todo = f"// exercise {name}: {_TODO}"
        return f"{indent}{mark} Exercise {name}: {match['what']}\n{indent}{todo}\n"

    return _HOLE.sub(cut, source)


def solution(source: str) -> str:
    """The source with its holes filled and no longer marked."""

    def fill(match: re.Match[str]) -> str:
        return f"{match['indent']}{match['mark']} {match['what']}\n{match['code']}"

    return _HOLE.sub(fill, source)


def answer(source: str, number: int) -> str:
    """The code of an exercise alone: each hole filled, under the line that begins its block."""
    parts = []
    for match in _HOLE.finditer(source):
        if int(match["number"]) != number:
            continue
        depth = len(match["indent"])
        above = [line for line in source[: match.start()].splitlines() if line.strip()]
        heads = [line for line in above if len(line) - len(line.lstrip()) < depth]
        parts.append(f"{heads[-1]}\n{solution(match[0])}" if heads else solution(match[0]))
    return "\n".join(parts)


def unwritten(text: str, chapter: int, number: int) -> bool:
    """Whether a learner's file still says that this exercise's code goes here."""
    return f"exercise {chapter}.{number}: {_TODO}" in text
