"""Run a command that may hang, crash, or leave children behind, and end with none of it running."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import minillm

_MARK = "MINILLM_DOCTOR"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# What `import minillm` sets where the user has not: children are to find what the user set.
_SET_BY_IMPORT = (*THREAD_VARIABLES, "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit status; None if its time ran out or it could not be started.
        output, error: what it wrote to stdout and stderr.
        seconds: how long it ran.
    """

    code: int | None
    output: str
    error: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line it wrote, preferably of what went wrong."""
        lines = [line.strip() for line in (self.error.strip() or self.output.strip()).splitlines()]
        return next((line for line in reversed(lines) if any(map(str.isalnum, line))), "no output")


def user_environment() -> dict[str, str]:
    """The environment without what `import minillm` added to it."""
    try:
        raw = Path("/proc/self/environ").read_bytes().decode(errors="replace")
        at_start = {entry.partition("=")[0] for entry in raw.split("\0")}
    except OSError:  # no /proc: keep everything
        at_start = set(_SET_BY_IMPORT)
    return {k: v for k, v in os.environ.items() if k in at_start or k not in _SET_BY_IMPORT}


def run(command: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Outcome:
    """Run `command` for at most `seconds`, then end it and every process that came from it.

    Args:
        env: variables on top of the user's environment.
    """
    mark = uuid.uuid4().hex
    root = str(Path(minillm.__file__).parents[1])  # a checkout need not be installed
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    variables = {**user_environment(), "PYTHONPATH": path, **(env or {}), _MARK: mark}
    began = time.monotonic()
    # Files, not pipes: a stray grandchild that holds a pipe open would keep us waiting for its end.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=error,
                env=variables, start_new_session=True,
            )  # fmt: skip
        except OSError as failure:
            return Outcome(None, "", f"{command[0]}: {failure.strerror}", 0.0)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process, mark)
        elapsed = time.monotonic() - began
        return Outcome(code, _text(output), _text(error), elapsed)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends the program as Ctrl-C does, by an exception that leaves every `with` and
    `finally` on its way; with exit code 143, which the shell gives those that SIGTERM kills."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut the cleaning up short
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _text(file: object) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _end(process: subprocess.Popen, mark: str) -> None:
    """End the process group and what left it. A launcher first gets the chance to end its ranks,
    which Open MPI puts into groups of their own."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            pass
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    kill(marked(mark))


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except OSError:  # nobody is left in it
        pass


def kill(processes: Iterable[int]) -> None:
    """SIGKILL those that are still there."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, signal.SIGKILL)


def kill_marked(mark: str) -> None:
    """SIGKILL all that inherited `mark`, until they are gone."""
    while left := marked(mark):
        kill(left)
        time.sleep(0.05)


def marked(mark: str) -> list[int]:
    """Processes that inherited `mark` in their environment (none where there is no /proc)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
