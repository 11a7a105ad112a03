"""Run a script on real MPI ranks, so that neither a hang nor a process outlives the test."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MPIRUN = Path(sys.executable).with_name("mpirun")
needs_mpirun = pytest.mark.skipif(
    not MPIRUN.exists(), reason="no mpirun beside this Python: pip install mpi4py mpich"
)


def mpirun(ranks: int, script: str, *args: object, timeout: float = 60) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `mpirun -n ranks python scripts/<script> args`.

    Fails the test if it runs longer than `timeout` seconds or leaves a process behind.
    """
    mark = f"MINILLM_TEST_RUN={uuid.uuid4()}"  # inherited by all: mpirun's children leave its group
    path = Path(__file__).with_name("scripts") / script
    process = subprocess.Popen(
        [MPIRUN, "-n", str(ranks), sys.executable, path, *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | dict([mark.split("=")]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"mpirun took more than {timeout} s\n{out}\n{err}")
    finally:
        survivors = _end(mark)
    assert not survivors, f"mpirun left processes behind: {survivors}\n{err}"
    return process.returncode, out, err


def _end(mark: str, grace: float = 3.0) -> list[int]:
    """Kill what still carries the mark after some seconds; which processes that were."""
    deadline = time.monotonic() + grace
    while (alive := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in alive:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return alive


def _marked(mark: str) -> list[int]:
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:  # it ended, or is not ours to read
            pass
    return found
