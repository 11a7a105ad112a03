"""Start programs as users do, with a hard limit, and leave no process behind."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from minillm.cli.checks.mpi import find_mpirun
from minillm.cli.checks.process import kill, marked, user_environment

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


def signalled(
    argv: list, number: int, ready: Callable[[list[int]], bool], tmp: Path
) -> tuple[int, str]:
    """Exit code and stderr of `minillm argv`, sent a signal once `ready(its processes)`; fails if
    it leaves a process, or anything in `tmp`, its folder for temporary files."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "minillm.cli", *argv], cwd=ROOT, text=True,
        env={**environment(), "TMPDIR": str(tmp), _MARK: mark},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell's background job, as these tests may be, ignores Ctrl-C, and so would this.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 100
        while not ready(marked(mark)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
        assert not marked(mark) and not list(tmp.iterdir())
        return process.returncode, error
    finally:
        kill(marked(mark))


def _end(mark: str, grace: float = 3.0) -> list[int]:
    """Kill what still carries the mark after some seconds; which processes that were."""
    deadline = time.monotonic() + grace
    while (alive := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill(alive)
    return alive
