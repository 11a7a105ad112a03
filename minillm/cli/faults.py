"""train.py with a fault in it:  mpirun -n 3 python -m minillm.cli.faults hung 1 8 MARK options...

Runs the checkout's train.py, unchanged, with these options; in step 8, on rank 1, the fault named
first happens, and the moment is written to the file MARK. For `minillm failure-lab`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minillm.distributed import Communicator, all_reduce, world
from minillm.distributed.sync.base import Strategy
from minillm.errors import UserError

_SLOWER = 4  # times


class Faulty:
    """A strategy's steps with a fault: `Faulty(...).strategy(sync)` is `sync`, so changed.

    Each fault is a method of its name, called on the faulty rank (if in EVERYWHERE, on all) in
    `step` (if in REPEATED, from then on), at the end of the stage that STAGES gives for it; of
    "backward", before gradients are summed, if it gives none.
    """

    STAGES = {"flipped_bit": "sums", "nan": "update"}
    EVERYWHERE = {"mismatched_shape"}
    REPEATED = {"slow"}

    def __init__(self, fault: str, rank: int, step: int, mark: Path, comm: Communicator):
        self.comm, self.step, self.mark = comm, step, mark
        self.here = comm.rank == rank
        self.happens: Callable[[], Any] = getattr(self, fault)
        self.stage = self.STAGES.get(fault, "backward")
        self.repeated, self.everywhere = fault in self.REPEATED, fault in self.EVERYWHERE
        self.count, self.began = 1, time.perf_counter()

    def strategy(self, sync: Strategy) -> Strategy:
        """Let `sync` call us between its stages."""
        finish, step = sync.finish, sync.step
        self.groups = sync.optimizer.groups

        def faulty_finish() -> None:
            self.after("backward")
            finish()
            self.after("sums")

        def faulty_step(*args: float) -> None:
            step(*args)
            self.after("update")
            self.count, self.began = self.count + 1, time.perf_counter()

        sync.finish, sync.step = faulty_finish, faulty_step
        return sync

    def after(self, stage: str) -> None:
        """If its moment has come, the fault happens."""
        if stage != self.stage or not (self.here or self.everywhere):
            return
        if self.here and self.count == self.step:
            self.mark.write_text(repr(time.time()))
        if self.count == self.step or self.repeated and self.count > self.step:
            self.happens()

    def killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def raising(self) -> None:
        raise ZeroDivisionError("a fault of the failure lab")

    def hung(self) -> None:
        time.sleep(3600)

    def stopped(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def slow(self) -> None:
        time.sleep(0.05 + (_SLOWER - 1) * (time.perf_counter() - self.began))

    def mismatched_collective(self) -> None:
        self.comm.barrier()

    def mismatched_shape(self) -> None:
        all_reduce(self.comm, np.zeros(10 + self.here), tag=1000)  # gradients have 0, 1, ...

    def flipped_bit(self) -> None:
        """The lowest bit of an exponent: the largest number of the summed gradient is doubled, or
        halved."""
        grad = self.groups[0].flat.grad
        i = int(np.abs(grad).argmax())
        bits = grad[i : i + 1].view(np.uint32)
        bits ^= np.uint32(1 << 23)

    def nan(self) -> None:
        """A parameter is no number any more when the next step begins."""
        self.groups[0].flat.data[0] = np.nan


def train_script() -> Path:
    """train.py of the checkout that this package is imported from.

    Raises:
        UserError: it is not there.
    """
    path = Path(__file__).resolve().parents[2] / "train.py"
    if not path.exists():
        raise UserError(f"no {path}: run this in a checkout of the repository")
    return path


def load_train() -> ModuleType:
    """train.py as a module; `main` is yet to be called."""
    sys.path.insert(0, str(train_script().parent))
    import train

    return train


def main(argv: list[str]) -> None:
    """FAULT RANK STEP MARK, then the options of train.py."""
    fault, rank, step, mark, *options = argv
    train, comm = load_train(), world()
    faulty = Faulty(fault.replace("-", "_"), int(rank), int(step), Path(mark), comm)
    build_sync = train.build_sync
    train.build_sync = lambda *args: faulty.strategy(build_sync(*args))
    train.main(comm, options)


if __name__ == "__main__":
    main(sys.argv[1:])
