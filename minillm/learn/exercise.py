"""An exercise: what must hold of the answer, three hints, wrong answers that must be rejected."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Wrong:
    """A wrong answer: the solution with `find`, which is in its file once, replaced by `replace`.

    Attributes:
        what: the mistake, as one would call it: "variance over the wrong axis".
        says: words that the learner must then be told.
        file: of the chapter's work files, the one to change; empty: the first.
    """

    what: str
    find: str
    replace: str
    says: str
    file: str = ""


@dataclass(frozen=True)
class Exercise:
    """One exercise. Its number is its place in the chapter's list, and that of its hole.

    Attributes:
        title: a few words.
        check: `check(work)`, of the learner's work file as a module, raises Mistake or returns; if
            it returns a line, of measurements say, that is printed.
        hints: three, each saying more than the one before.
        wrong: at least three.
        limit: seconds that the check may take on a slow machine.
        needs: programs without which it cannot be checked: "g++".
    """

    title: str
    check: Callable[[ModuleType], str | None]
    hints: tuple[str, str, str]
    wrong: tuple[Wrong, ...]
    limit: float = 20.0
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plug:
    """Where in the engine a function of the work file takes the place of ours.

    Attributes:
        function: its name in the work file.
        place: "kernel NAME", for one of `minillm.kernels`; or "minillm.module:name", an attribute
            that is looked up each time it is used, "minillm.optim.adam:AdamW.update" say.
        adapt: makes of the learner's function one with the engine's signature, where they differ.
        exercise: number of the exercise that must be right first.
        options: of train.py, without which the place is not passed: "--compress topk".
    """

    function: str
    place: str
    exercise: int
    adapt: Callable[[Callable], Callable[..., Any]] | None = None
    options: str = ""
