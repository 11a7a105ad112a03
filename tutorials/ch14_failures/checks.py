"""What must hold of the answers of chapter 14."""

import numpy as np

from minillm.learn import expect, same
from minillm.tutorials.ch14_failures.disk import Disk, PowerCut

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
    ("0 is ahead and waits for nobody", "9A- 8A+ 8A+", ("none", [])),
    ("2 is gone", "7A+ 7A+ x", ("gone", [2])),
    ("1 and 3 are gone", "7A+ x 6A- x", ("gone", [1, 3])),
    ("1 has not come to #7", "7A+ 6A- 7A+", ("late", [1])),
    ("2 is far behind", "9A+ 8A- 3A- 9A+", ("late", [2])),
    ("1 waits for 2, 0 is ahead", "9A- 8A+ 7A-", ("late", [2])),
    ("1 is inside #6, 2 has left it", "7A+ 6A+ 6A-", ("late", [2])),
    ("1 and 2 are inside #6", "7A+ 6A+ 6A+", ("late", [1, 2])),
    ("other names under other numbers", "7A+ 6B-", ("late", [1])),
    ("1 calls something else", "7A+ 7B+ 7A+", ("mismatch", [1])),
    ("one against one", "7A+ 7B+", ("mismatch", [0, 1])),
    ("1 and 3 against 0, 2, 4", "7A+ 7B+ 7A+ 7B+ 7A+", ("mismatch", [1, 3])),
    ("three kinds", "7A+ 7B+ 7A+ 7C+", ("mismatch", [0, 1, 2, 3])),
    ("six ranks, three kinds", "7A+ 7A+ 7A+ 7B+ 7B+ 7C+", ("mismatch", [5])),
    ("1 has left something else", "7A+ 7B- 7A+", ("mismatch", [1])),
    ("0 and 1 differ, 2 is behind", "7A+ 7B+ 6A-", ("mismatch", [0, 1])),
    ("two mismatches", "7A+ 7B+ 6A+ 6B+", ("mismatch", [2, 3])),
]


def check_diagnosis(work):
    for name, words, wanted in _CASES:
        records = {
            rank: None if word == "x" else (int(word[0]), _WHAT[word[1]], word[2] == "+")
            for rank, word in reversed(list(enumerate(words.split())))
        }
        got = work.diagnose(dict(records))
        got = tuple(got) if isinstance(got, (tuple, list)) else got
        shown = dict(sorted(records.items()))
        expect(got == wanted, f"{name}: got {got}, expected {wanted}; the records: {shown}")


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
