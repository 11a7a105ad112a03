"""Checks, hints and wrong answers of chapter 14."""

import importlib.util
from pathlib import Path

import numpy as np

from minillm.learn import Exercise, Wrong, expect, same

FILES = ("failures.py",)

_spec = importlib.util.spec_from_file_location("ch14_disk", Path(__file__).parent / "disk.py")
_disk = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_disk)
Disk, PowerCut = _disk.Disk, _disk.PowerCut

OLD, NEW = b"the old checkpoint", b"the new checkpoint, a little longer"


def check_save(work):
    for before in ({"model": OLD, "other": b"not ours"}, {"other": b"not ours"}):
        disk = Disk(before)
        work.save(disk, "model", NEW)
        had = "over an old file" if "model" in before else "where there was none"
        expect(disk.names() == ["model", "other"], f"saving {had} left the files {disk.names()}")
        expect(disk.read("model") == NEW, f"saving {had} left {disk.read('model')} in the file")
        for cut in range(len(disk.operations) + 1):
            broken = Disk(before, fails_after=cut)
            done = f"a cut after {cut} operations, {_words(disk.operations[:cut])}"
            returned = True
            try:
                work.save(broken, "model", NEW)
            except PowerCut:
                returned = False
            for found in broken.after_the_cut():
                has = found.read("model") if "model" in found.names() else None
                if returned:
                    expect(has == NEW, f"after save has returned, a cut may leave {has}")
                else:
                    allowed = (before.get("model"), NEW)
                    expect(has in allowed, f"{done}, may leave {has} instead of the old or the new")
                expect(found.read("other") == b"not ours", f"{done}: the other file was changed")


def _words(operations):
    return ", ".join(" ".join(each) for each in operations) or "at once"


def check_resume(work):
    for when in (0, 1, 2, 3, 7, 20):
        whole = work.Trainer(seed=3)
        for _ in range(when):
            whole.step()
        state = whole.state()
        losses = [whole.step() for _ in range(12)]
        for seed in (3, 4):  # a new process may have drawn other numbers first
            resumed = work.Trainer(seed=seed)
            for _ in range(seed):
                resumed.step()
            resumed.load_state(state)
            again = [resumed.step() for _ in range(12)]
            for i, (one, other) in enumerate(zip(losses, again)):
                expect(
                    one == other,
                    f"resumed after step {when}, the loss of step {when + i + 1} is {other!r}, not"
                    f" {one!r}",
                )
            same(f"weights, resumed after step {when}", resumed.weights, whole.weights, 0, 0)


_WHAT = {"A": "all_reduce of (4096,) float32", "B": "barrier", "C": "broadcast of (8,) float32"}
# The latest collective of ranks 0, 1, 2 ...: number, what, inside (+) or out of it (-); gone: x.
_CASES = [
    ("all are inside #7", "7A+ 7A+", ("none", [])),
    ("rank 1 has left #7", "7A+ 7A-", ("none", [])),
    ("nobody is inside", "8A- 7A-", ("none", [])),
    ("2 is gone", "7A+ 7A+ x", ("gone", [2])),
    ("1 and 3 are gone", "7A+ x 6A- x", ("gone", [1, 3])),
    ("1 has not come to #7", "7A+ 6A- 7A+", ("late", [1])),
    ("2 is far behind", "9A+ 8A- 3A- 9A+", ("late", [2])),
    ("1 is inside #6, 2 has left it", "7A+ 6A+ 6A-", ("late", [2])),
    ("1 and 2 are inside #6", "7A+ 6A+ 6A+", ("late", [1, 2])),
    ("1 calls something else", "7A+ 7B+ 7A+", ("mismatch", [1])),
    ("one against one", "7A+ 7B+", ("mismatch", [0, 1])),
    ("1 and 3 against 0, 2, 4", "7A+ 7B+ 7A+ 7B+ 7A+", ("mismatch", [1, 3])),
    ("three kinds", "7A+ 7B+ 7A+ 7C+", ("mismatch", [0, 1, 2, 3])),
    ("other names under other numbers", "7A+ 6B-", ("late", [1])),
]


def check_diagnosis(work):
    for name, words, wanted in _CASES:
        records = {
            rank: None if word == "x" else (int(word[0]), _WHAT[word[1]], word[2] == "+")
            for rank, word in reversed(list(enumerate(words.split())))
        }
        got = work.diagnose(dict(records))
        got = tuple(got) if isinstance(got, (tuple, list)) else got
        expect(got == wanted, f"{name}: got {got}, expected {wanted}; the records: {records}")


def check_plan(work):
    interval, goodput = work.plan(50.0, 0.0, 1e6, 100)
    same("interval for 50 s a checkpoint and a failure each 10,000 s", interval, 1000.0)
    same("goodput there, with no time to restart", goodput, 0.9)
    same("goodput with 300 s to restart", work.plan(50.0, 300.0, 1e6, 100)[1], 0.87)
    for save, restart, mtbf, parts in ((10.0, 100.0, 1e8, 16384), (200.0, 60.0, 5e7, 1024)):
        interval, goodput = work.plan(save, restart, mtbf, parts)
        simulated = _simulate(interval, save, restart, mtbf / parts)
        expect(
            abs(goodput - simulated) < 0.02,
            f"plan({save}, {restart}, {mtbf}, {parts}): goodput {goodput:.3f}, simulated"
            f" {simulated:.3f}",
        )
    same("goodput of what fails all the time", work.plan(100.0, 100.0, 100.0, 10)[1], 0.0)


def _simulate(interval, save, restart, mtbf, seed=0):
    """The share of useful time of a long run whose failures come at random moments."""
    rng = np.random.default_rng(seed)
    lives = rng.exponential(mtbf, 20000)
    useful = np.floor(lives / interval) * (interval - save)
    return useful.sum() / (lives.sum() + restart * len(lives))


EXERCISES = (
    Exercise(
        "Save, whatever happens",
        check_save,
        hints=(
            "One whole file of that name must be on the disk at any moment: do not write over it.",
            "Write under another name and rename. What is renamed must be on the disk before its"
            " new name is, and save must not return before that name is.",
            "write(temporary), flush(temporary), rename(temporary, name), flush_names().",
        ),
        wrong=(
            Wrong(
                "written in place",
                '    temporary = name + ".tmp"\n',
                "    temporary = name\n    disk.rename = lambda old, new: None\n",
                says="instead of the old or the new",
            ),
            Wrong(
                "the bytes are not flushed", "    disk.flush(temporary)\n", "", says="write model"
            ),
            Wrong(
                "the name is not flushed",
                "    disk.flush_names()\n",
                "",
                says="after save has returned, a cut may leave",
            ),
            Wrong(
                "the old one is removed first",
                "    disk.rename(temporary, name)",
                "    if name in disk.names():\n        disk.remove(name)\n"
                "    disk.rename(temporary, name)",
                says="may leave None instead of the old or the new",
            ),
            Wrong(
                "flushed after the rename",
                "    disk.flush(temporary)\n    disk.rename(temporary, name)\n",
                "    disk.rename(temporary, name)\n    disk.flush(name)\n",
                says="rename model.tmp model",
            ),
        ),
    ),
    Exercise(
        "Resume exactly",
        check_resume,
        hints=(
            "Go through step() line by line: which of the things it reads are not the same in a new"
            " Trainer?",
            "Seven: weights, two moments, the step's number, the epoch's order, the position in it,"
            " and where the random numbers are (rng.bit_generator.state). Arrays change in place.",
            "`self.mean.copy()` and so on for the four arrays, here and in load_state;"
            " `self.rng.bit_generator.state = state['rng']`.",
        ),
        wrong=(
            Wrong(
                "Adam's moments are forgotten",
                'for name in ("weights", "mean", "square", "order"):',
                'for name in ("weights", "order"):',
                says="resumed after step",
            ),
            Wrong(
                "the step's number is forgotten",
                '        self.step_number = state["step_number"]\n',
                "",
                says="resumed after step",
            ),
            Wrong(
                "the random numbers begin again",
                '        self.rng.bit_generator.state = state["rng"]\n',
                "",
                says="resumed after step 0, the loss of step 1",
            ),
            Wrong(
                "the position in the data is forgotten",
                '        self.position = state["position"]\n',
                "",
                says="resumed after step",
            ),
            Wrong(
                "the state is not a copy",
                '"mean": self.mean.copy()',
                '"mean": self.mean',
                says="resumed after step",
            ),
            Wrong(
                "loaded arrays belong to the state",
                "setattr(self, name, state[name].copy())",
                "setattr(self, name, state[name])",
                says="resumed after step",
            ),
        ),
    ),
    Exercise(
        "Name the rank",
        check_diagnosis,
        hints=(
            "A hang has a cause on one rank and shows on all others. Whoever is inside a collective"
            " waits; look for the one that is waited for.",
            "First the ranks without a record. Then, number by number, group ranks by `what`. Then"
            " those whose number is below the highest one that somebody is inside of.",
            "behind = ranks with number < max(number of ranks inside); the least (number, inside)"
            " of them: False sorts before True.",
        ),
        wrong=(
            Wrong(
                "those that wait are blamed",
                "    lowest = min(behind.values())",
                "    behind = places\n    lowest = max(behind.values())",
                says="1 has not come to #7: got ('late', [0, 2])",
            ),
            Wrong(
                "the majority is blamed",
                "fewest = min(map(len, sides.values()))",
                "fewest = max(map(len, sides.values()))",
                says="1 calls something else: got ('mismatch', [0, 2])",
            ),
            Wrong(
                "names are compared across numbers",
                "            if own == number:\n",
                "            if True:\n",
                says="other names under other numbers: got ('mismatch'",
            ),
            Wrong(
                "a rank that is inside is blamed with one that is outside",
                "if place == lowest)",
                "if place[0] == lowest[0])",
                says="1 is inside #6, 2 has left it: got ('late', [1, 2])",
            ),
            Wrong(
                "nobody waits, and yet somebody is late",
                "number for number, inside in places.values() if inside",
                "number for number, inside in places.values()",
                says="nobody is inside: got ('late', [1])",
            ),
        ),
    ),
    Exercise(
        "How often to save",
        check_plan,
        hints=(
            "Any part ends the run: how long until the first of them fails?",
            "Equation (3) with the mean time of all parts together, then the sum (2) there.",
            "mtbf = part_mtbf / parts; interval = sqrt(2 save mtbf);"
            " waste = save / interval + interval / (2 mtbf) + restart / mtbf.",
        ),
        wrong=(
            Wrong(
                "the time of one part",
                "mtbf = part_mtbf / parts",
                "mtbf = part_mtbf",
                says="interval for 50 s",
            ),
            Wrong(
                "the 2 under the root", "2 * save_seconds", "save_seconds", says="interval for 50 s"
            ),
            Wrong(
                "a whole interval is lost",
                "interval / (2 * mtbf)",
                "interval / mtbf",
                says="goodput there, with no time to restart is 0.85, expected 0.9",
            ),
            Wrong(
                "restarts take no time",
                " + restart_seconds / mtbf",
                "",
                says="goodput with 300 s to restart",
            ),
            Wrong(
                "less than nothing", "max(0.0, 1 - waste)", "1 - waste", says="fails all the time"
            ),
        ),
    ),
)
