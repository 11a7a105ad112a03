"""What `minillm prove-ddp` starts on many ranks: train.py, watched, for one job after the other.

    mpirun -n 4 python -m minillm.train.proof.worker train.py jobs.json

In: where train.py is, and a list of jobs (`Job`, as JSON). Out: in the folder of each job

    parameters.npz   (steps, *shape) of every parameter of the whole model, after each step
    rank-R.json      digests of what rank R holds, after each step; its bytes and shares
    log.txt          what train.py printed

and on stdout "ready" once, then "done I" when job I is. train.py knows nothing of it: this imports
it by its path and looks at the parameters when the strategy's `step` returns. What has no part in
the arithmetic, measuring the machine and plotting, is left out to save the time.
"""

import contextlib
import hashlib
import importlib.util
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minillm.device import to_device
from minillm.distributed import Communicator, world
from minillm.parallel import whole
from minillm.parallel.splits import split_of

READY, DONE = "ready", "done"  # what it says on stdout
_DELAY = 0.02  # seconds a sample, on a rank that is to be slow


@dataclass
class Job:
    """One run of train.py.

    Attributes:
        argv: its command line.
        folder: for what is written, there already.
        keep: whether to keep parameters; only the first of equal runs needs to.
        slow: the rank that is held up at each sample, or -1.
    """

    argv: list[str]
    folder: str
    keep: bool = True
    slow: int = -1


@dataclass
class Seen:
    """What one rank saw of a job.

    Attributes:
        digests: after each step, of every array this rank holds; arrays of one name are the same
            part of the model, and must be the same on all ranks that have them.
        bytes_sent: in all steps together.
        first_shares, last_shares: samples of each rank, in the first step and after the last.
    """

    digests: list[dict[str, str]]
    bytes_sent: int = 0
    first_shares: tuple[int, ...] = ()
    last_shares: tuple[int, ...] = ()


class Watch:
    """Stands between train.py and what it builds, for one job."""

    def __init__(self, comm: Communicator, job: Job):
        self.comm, self.job, self.seen = comm, job, Seen([])
        self.parameters: dict[str, list[np.ndarray]] = {}

    def strategy(self, sync: Any, grid: Any, pipe: Any) -> Any:
        """The strategy, which tells of each of its steps; and this rank slow, if it is to be."""
        step, sent = sync.step, self.comm.bytes_sent

        def step_and_look(*args: Any) -> None:
            step(*args)
            self.seen.bytes_sent = self.comm.bytes_sent - sent
            if sync.exact:
                self._look(grid, pipe)

        sync.step = step_and_look
        if self.comm.rank == self.job.slow:
            forward = pipe.forward

            def slowly(i: int, x: Any, *args: Any) -> None:
                time.sleep(_DELAY * len(x))
                forward(i, x, *args)

            pipe.forward = slowly
        return sync

    def balancer(self, balancer: Any) -> Any:
        """The balancer, whose shares are kept."""
        self._balancer = balancer
        self.seen.first_shares = tuple(balancer.shares)
        return balancer

    def _look(self, grid: Any, pipe: Any) -> None:
        mine = {name: to_device(array, "cpu") for name, array in pipe.model.state_dict().items()}
        digests = {}
        for name, array in mine.items():
            split = grid.tp.size > 1 and split_of(name, pipe.model.config)
            digest = hashlib.blake2b(np.ascontiguousarray(array), digest_size=8)
            digests[f"{name}, share {grid.tp.rank}" if split else name] = digest.hexdigest()
        self.seen.digests.append(digests)
        if self.job.keep:
            for name, array in (whole(grid, pipe, mine) or {}).items():
                self.parameters.setdefault(name, []).append(np.array(array))

    def write(self) -> None:
        """Into the job's folder."""
        folder = Path(self.job.folder)
        self.seen.last_shares = tuple(self._balancer.shares)
        (folder / f"rank-{self.comm.rank}.json").write_text(json.dumps(asdict(self.seen)))
        if self.parameters:
            np.savez(folder / "parameters.npz", **self.parameters)


def load(path: str) -> ModuleType:
    """train.py as a module."""
    spec = importlib.util.spec_from_file_location("train", path)
    assert spec is not None and spec.loader is not None
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    return train


def run(train: Any, comm: Communicator, job: Job) -> None:
    """train.py under watch."""
    build_sync, balancer = train.build_sync, train.Balancer
    watch = Watch(comm, job)

    def watched(config: Any, grid: Any, optimizer: Any, pipe: Any) -> Any:
        return watch.strategy(build_sync(config, grid, optimizer, pipe), grid, pipe)

    train.build_sync = watched
    train.Balancer = lambda *args: watch.balancer(balancer(*args))
    try:
        with (
            open(Path(job.folder) / "log.txt", "a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
        ):
            train.main(comm, job.argv)
    finally:
        train.build_sync, train.Balancer = build_sync, balancer
    watch.write()


def main(argv: list[str]) -> None:
    """Run the jobs."""
    path, jobs = argv
    comm = world()
    train: Any = load(path)
    train.measure_peak = lambda *args: 1.0
    train.plot = lambda *args: None
    if comm.rank == 0:
        print(READY, flush=True)
    for i, job in enumerate(json.loads(Path(jobs).read_text(encoding="utf-8"))):
        run(train, comm, Job(**job))
        comm.barrier()
        if comm.rank == 0:
            print(f"{DONE} {i}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
