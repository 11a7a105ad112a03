"""Checks, hints and wrong answers of chapter 42."""

import numpy as np

from minillm.learn import Exercise, Plug, Wrong, same

FILES = ("rows.py",)


def check_mean(work):
    x = np.arange(12.0).reshape(3, 4) ** 2
    same("mean", work.mean(x), x.mean(-1))


def check_halves(work):
    for n in (1, 2, 1000):
        same(f"halves({n})", work.halves(n), int(np.log2(n)))
    return "1000 takes 9"


EXERCISES = (
    Exercise(
        "The mean of each row",
        check_mean,
        hints=("What is summed?", "x.sum(-1)", "x.sum(-1) / x.shape[-1]"),
        wrong=(
            Wrong("the other axis", "sum(-1)", "sum(0)", says="shape (4,), expected (3,)"),
            Wrong("forgotten 1/n", " / x.shape[-1]", "", says="mean[0] is 14, expected 3.5"),
            Wrong("n of the other axis", "x.shape[-1]", "x.shape[0]", says="mean[0] is"),
        ),
    ),
    Exercise(
        "Halving",
        check_halves,
        hints=("Loop.", "while", "while n > 1"),
        limit=2,
        wrong=(
            Wrong("never ends", "n //= 2", "n = n", says="no answer after 2 s"),
            Wrong("one too many", "n > 1", "n > 0", says="halves(1) is 1, expected 0"),
            Wrong("raises", "n //= 2", "n //= 0", says="rows.py:15: n //= 0"),
            Wrong("crashes", "count = 0", "import os; os.abort()", says="signal SIGABRT"),
        ),
    ),
)
PLUGS = (Plug("mean", "kernel sum_of_squares", exercise=1),)
