"""`minillm learn train`: train.py with a learner's functions in the place of the engine's.

    minillm learn train --use ch05 --use ch09 --steps 200      your functions
    minillm learn train --use ch10=solution --ranks 2          the solution's; on two ranks

Exercises that go into the engine must be right first. At the end each function's calls are counted.
Where two chapters have the same place in the engine, the one named last gets it. All other options
are those of train.py: python train.py --help
"""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from minillm.cli.checks.mpi import find_mpirun
from minillm.cli.checks.process import user_environment
from minillm.cli.faults import load_train, train_script
from minillm.errors import UserError
from minillm.learn.chapters import Chapter, chapter
from minillm.learn.desk import Desk
from minillm.learn.judge import judge, load
from minillm.learn.plug import plugged

if TYPE_CHECKING:
    from minillm.distributed import Communicator


def train(argv: list[str]) -> int:
    """Parse --use and --ranks, and train; everything else is train.py's."""
    if {"-h", "--help"} & set(argv):
        print(__doc__.strip())
        return 0
    uses, ranks, rest = _parse(argv)
    if not uses:
        raise UserError("say whose functions to train with: minillm learn train --use ch05")
    if ranks > 1:
        return _on_ranks(ranks, uses, rest)
    module = load_train()
    from minillm.distributed import world

    comm = world()
    try:
        _train(module, comm, uses, rest)
    except UserError:  # of all ranks alike: one says it
        if comm.rank == 0:
            raise
        return 2
    return 0


def _train(
    module: ModuleType, comm: "Communicator", uses: dict[str, tuple[Chapter, bool]], rest: list[str]
) -> None:
    """Run train.py's main with the functions in place, and count their calls."""
    from minillm.device import explain_out_of_memory
    from minillm.distributed import on_root

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        used = []
        for of, solved in uses.values():
            place = _solution(of, folder) if solved else Desk().place(of)
            if not solved:
                on_root(comm, partial(_must_be_right, of, place))
            used += stack.enter_context(plugged(of, load(of, place)))
            whose = "the solution's" if solved else "your"
            if comm.rank == 0:
                names = ", ".join(dict.fromkeys(plug.function for plug in of.plugs))
                print(f"{of.name}     {whose} {names}", flush=True)
        stack.enter_context(explain_out_of_memory())
        module.main(comm, rest)
        if comm.rank == 0:
            for each in used:
                unused = f" (used with {each.plug.options})" * (not each.calls)
                print(f"{each.plug.function}: {each.calls:,} calls, in {each.plug.place}{unused}")


def _must_be_right(of: Chapter, place: Path) -> None:
    """Refuse functions that their checks refuse: a wrong gradient trains for a while, too."""
    if not place.is_dir():
        raise UserError(
            f"{of.name} is not started: minillm learn start {of.name},"
            f" or take the solution's functions: --use {of.name}=solution"
        )
    for number in sorted({plug.exercise for plug in of.plugs}):
        verdict = judge(of, place, number)
        if verdict.state in ("wrong", "unwritten"):
            raise UserError(
                f"exercise {of.number}.{number} is not right yet: minillm learn check {of.name},"
                f" or take the solution's functions: --use {of.name}=solution"
            )


def _solution(of: Chapter, folder: Path) -> Path:
    place = folder / of.name
    place.mkdir()
    for file, text in of.solutions().items():
        (place / file).write_text(text, encoding="utf-8")
    return place


def _parse(argv: list[str]) -> tuple[dict[str, tuple[Chapter, bool]], int, list[str]]:
    """(chapter, whether the solution's) for each --use, by name; ranks; the other arguments."""
    uses: dict[str, tuple[Chapter, bool]] = {}
    ranks, rest, words = 1, [], iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in ("--use", "--ranks"):
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if option == "--ranks":
            if not value.isdigit() or int(value) < 1:
                raise UserError(f"--ranks {value!r}: write a number, as in --ranks 2")
            ranks = int(value)
            continue
        name, equals, whose = value.partition("=")
        if equals and whose != "solution":
            raise UserError(f"--use {value}: write --use {name} or --use {name}=solution")
        of = chapter(name)
        uses[of.name] = of, whose == "solution"
    return uses, ranks, rest


def _on_ranks(ranks: int, uses: dict[str, tuple[Chapter, bool]], rest: list[str]) -> int:
    """The same command under mpirun, without its --ranks."""
    launcher = find_mpirun()
    if launcher is None:
        raise UserError("no mpirun here: pip install 'minillm[mpi]'")
    command = [launcher, "-n", str(ranks), sys.executable, "-m", "minillm.cli", "learn", "train"]
    for name, (_, solved) in uses.items():
        command += ["--use", name + "=solution" * solved]
    root = str(train_script().parent)  # and not a folder of that name where the user stands
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    env = {**user_environment(), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    return subprocess.run(command + rest, env=env).returncode
