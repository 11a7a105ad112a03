"""What the exercises of the tutorials are made of, and how a learner's answers are judged.

A chapter is a folder `tutorials/ch05_layer_norm/`: its text README.md, work files with holes, and
`exercises.py`, which says what must hold of each answer:

    from minillm.learn import Exercise, Plug, Wrong, same

    def check_forward(work):                          work: the learner's file, as a module
        same("y", work.layer_norm(x, w, b), expected) raises Mistake, or returns

    EXERCISES = [
        Exercise(
            "Layer norm, forward", check_forward,
            hints=("a nudge", "the idea", "nearly the line"),
            wrong=(Wrong("over the wrong axis", "mean(-1", "mean(0", says="y[0, 0]"), ...),
        ),
    ]
    PLUGS = [Plug("layer_norm", "kernel layer_norm_forward")]      where `learn train` puts it

The solution and the start file are one source (holes.py). Each answer is judged in a process of its
own, with a limit (judge.py); wrong answers ship with every exercise, and tests show that each is
rejected for the reason given.
"""

from minillm.learn.compare import Mistake, expect, refuses, same
from minillm.learn.exercise import Exercise, Plug, Wrong

__all__ = ["Exercise", "Mistake", "Plug", "Wrong", "expect", "refuses", "same"]
