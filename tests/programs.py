"""Start programs as users do, with a hard limit, and leave no process behind."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from minillm.cli.checks.mpi import find_mpirun
from minillm.cli.checks.process import user_environment

ROOT = Path(__file__).parents[1]
_MARK = "MINILLM_TEST_RUN"  # inherited by all: mpirun's children leave its process group


def environment() -> dict[str, str]:
    """The environment of a program started from another folder, with no threads chosen for it."""
    return {**user_environment(), "PYTHONPATH": str(ROOT)}


def run(
    argv: list, limit: float = 120, cwd: Path = ROOT, stdin: str = ""
) -> subprocess.CompletedProcess:
    """Run `argv`; fail the test if it takes over `limit` seconds or leaves a process behind."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [str(word) for word in argv], cwd=cwd, env={**environment(), _MARK: mark}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(stdin, timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{argv} took more than {limit} s\n{out}\n{err}")
    finally:
        survivors = _end(mark)
    assert not survivors, f"{argv} left processes behind: {survivors}\n{err}"
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def python(script: str, *args: object, **options) -> subprocess.CompletedProcess:
    """`python script args` from the repository, or from `cwd`."""
    return run([sys.executable, ROOT / script, *args], **options)


def minillm(*args: object, **options) -> subprocess.CompletedProcess:
    """`minillm args`, installed or not."""
    return run([sys.executable, "-m", "minillm.cli", *args], **options)


def mpirun(ranks: int, script: str, *args: object, **options) -> subprocess.CompletedProcess:
    """`mpirun -n ranks python script args`, with the mpirun of this environment."""
    launcher = find_mpirun()
    if launcher is None:
        pytest.skip("no mpirun: pip install mpich")
    return run([launcher, "-n", ranks, sys.executable, ROOT / script, *args], **options)


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
