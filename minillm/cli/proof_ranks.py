"""Start the worker of prove-ddp on some ranks, hear of each job's end, leave no process behind."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import minillm
from minillm.cli.checks.mpi import find_mpirun
from minillm.cli.checks.process import kill_marked, user_environment
from minillm.errors import UserError
from minillm.train.proof.worker import DONE, READY, Job

ROOT = Path(minillm.__file__).parents[1]
LIMIT = 400.0  # seconds without a word from the ranks: their watchdog gives one that works 300
WORKER = ["-m", "minillm.train.proof.worker"]
_MARK = "MINILLM_PROOF"  # inherited by all: mpirun's children leave its process group


class Broken(Exception):
    """The ranks ended before their jobs did; says why."""


def launch(ranks: int, train: Path, jobs: list[Job], folder: Path) -> Iterator[int]:
    """Run jobs one after the other; yields the number of each when it is done.

    Args:
        train: train.py.
        folder: for the list of jobs.

    Raises:
        Broken: a job failed, or did not end.
        UserError: the ranks could not be started at all.
    """
    path = folder / "jobs.json"
    path.write_text(json.dumps([asdict(job) for job in jobs]), encoding="utf-8")
    command = [sys.executable, *WORKER, str(train), str(path)]
    if ranks > 1:
        mpirun = find_mpirun()
        if mpirun is None:
            raise UserError("no mpirun here or in PATH: pip install mpi4py mpich")
        command = [mpirun, "-n", str(ranks), *command]
    mark = uuid.uuid4().hex
    places = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    began = False
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, bufsize=0,
            env={**user_environment(), "PYTHONPATH": places, _MARK: mark}, start_new_session=True,
        )  # fmt: skip
        try:
            code = None
            while select.select([process.stdout], [], [], LIMIT)[0]:
                word, _, number = process.stdout.readline().decode().strip().partition(" ")
                began = began or word == READY
                if word == DONE:
                    yield int(number)
                elif not word:
                    code = process.wait(LIMIT)
                    break
        finally:
            _end(process, mark)
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if code == 0:
        return
    why = f"no end within {LIMIT:.0f} s" if code is None else _reason(said) or f"exit code {code}"
    if not began:
        raise UserError(f"{ranks} ranks do not start: {why}; see `minillm doctor`")
    raise Broken(why)


def _reason(said: str) -> str:
    """Who failed and why, out of what the ranks wrote to stderr."""
    lines = said.strip().splitlines()
    who = [line.removeprefix("minillm: ") for line in lines if line.startswith("minillm: ")]
    what = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return " ".join([*who[:1], *what[-1:]] or lines[-1:])


def _end(process: subprocess.Popen, mark: str) -> None:
    """End the launcher, which first gets the chance to end its ranks, and all that it has left."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    kill_marked(mark)  # and wait: their folder is removed next
