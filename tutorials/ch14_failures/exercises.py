"""Exercises, hints and wrong answers of chapter 14: saving, resuming, diagnosis, a plan."""

from minillm.learn import Exercise, Wrong
from minillm.tutorials.ch14_failures.checks import (
    check_diagnosis,
    check_plan,
    check_resume,
    check_save,
)

FILES = ("failures.py",)

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
                "the old one is put aside first",
                "    disk.rename(temporary, name)\n",
                "    if name in disk.names():\n        disk.rename(name, name + '.old')\n"
                "    disk.rename(temporary, name)\n    disk.flush_names()\n"
                "    if name + '.old' in disk.names():\n        disk.remove(name + '.old')\n",
                says="may leave None instead of the old or the new",
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
            "First the ranks without a record. Then, number by number, from the lowest, group the"
            " ranks that are at it by `what`. Then those whose number is below the highest one that"
            " somebody is inside of.",
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
                "two sides of one rank each: all ranks are blamed",
                "blamed = sides.values()",
                "blamed = [list(records)]",
                says="0 and 1 differ, 2 is behind: got ('mismatch', [0, 1, 2])",
            ),
            Wrong(
                "only those inside are compared",
                "            if own == number:\n",
                "            if own == number and records[rank][2]:\n",
                says="1 has left something else",
            ),
            Wrong(
                "the last mismatch instead of the first",
                "sorted({record[0] for record in records.values()})",
                "sorted({record[0] for record in records.values()}, reverse=True)",
                says="two mismatches: got ('mismatch', [0, 1])",
            ),
            Wrong(
                "only the highest number is looked at",
                "    behind = {rank",
                "    if not max(places.values())[1]:\n        return 'none', []\n"
                "    behind = {rank",
                says="1 waits for 2, 0 is ahead: got ('none', [])",
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
