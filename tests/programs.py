"""Start programs as users do, with a hard limit, and leave no process behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """The environment of a program started from another folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(argv: list, limit: float = 120, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run `argv` in a process group of its own; kill the whole group when it ends or overruns."""
    process = subprocess.Popen(
        [str(word) for word in argv], cwd=cwd, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=limit)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def python(script: str, *args: object, **options) -> subprocess.CompletedProcess:
    """`python script args` from the repository, or from `cwd`."""
    return run([sys.executable, ROOT / script, *args], **options)


def mpirun(ranks: int, script: str, *args: object, **options) -> subprocess.CompletedProcess:
    """`mpirun -n ranks python script args`, with the mpirun of this environment."""
    beside = Path(sys.executable).with_name("mpirun")
    launcher = str(beside) if beside.exists() else shutil.which("mpirun")
    if launcher is None:
        pytest.skip("no mpirun: pip install mpich")
    return run([launcher, "-n", ranks, sys.executable, ROOT / script, *args], **options)
