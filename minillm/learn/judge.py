"""Judging an answer: in a process of its own, which may hang, crash or run wild, with a limit.

In: a chapter, the folder with a learner's work files, numbers of exercises. Out: a Verdict each.
The processes are forked from a clean server (Python's "forkserver"), so that each starts in
milliseconds and none meets another's threads, compiled kernels or changed modules.
"""

import importlib.util
import multiprocessing
import os
import shutil
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

from minillm.errors import UserError
from minillm.learn import holes
from minillm.learn.chapters import Chapter, read
from minillm.learn.compare import Mistake


@dataclass(frozen=True)
class Verdict:
    """On one exercise.

    Attributes:
        state: "passed", "wrong", "unwritten" or "not checked" (something is missing here).
        message: what is wrong, or what the check had to say.
    """

    number: int
    state: str
    message: str = ""

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.state == "passed"


def judge(of: Chapter, folder: Path, number: int) -> Verdict:
    """The verdict on exercise `number` (from 1) of the work files in `folder`.

    Raises:
        UserError: a work file is not there.
        OSError: one cannot be read.
    """
    exercise = of.exercises[number - 1]
    for file in of.files:
        path = folder / file
        if not path.is_file():
            raise UserError(f"{path} is missing: minillm learn reset {of.name} lays it out again")
        if holes.unwritten(path.read_text(encoding="utf-8", errors="replace"), of.number, number):
            return Verdict(number, "unwritten", f"not written yet, in {path}")
    if missing := [need for need in exercise.needs if not _has(need)]:
        return Verdict(number, "not checked", f"this needs {', '.join(missing)} on this machine")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numpy", "minillm", "minillm.learn.judge"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, of.folder, folder, number), daemon=False)
    process.start()
    theirs.close()
    try:
        answered = ours.poll(exercise.limit + 0.5)  # a moment more than it gives itself
        state, message = ours.recv() if answered else ("wrong", _endless(exercise.limit))
    except EOFError:
        process.join(5)
        state, message = "wrong", f"the program died: {_death(process.exitcode)}"
    finally:
        ours.close()
        _end(process)
    return Verdict(number, state, message)


def load(of: Chapter, folder: Path) -> ModuleType:
    """A learner's work file as a module, freshly run; an empty one where all files are CUDA C++.

    `work.folder` is where its files are.
    """
    files = [file for file in of.files if file.endswith(".py")]
    if files:
        spec = importlib.util.spec_from_file_location(f"{of.name}_work", folder / files[0])
        assert spec is not None and spec.loader is not None
        work = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = work  # dataclasses and pickles look there
        spec.loader.exec_module(work)
    else:
        work = ModuleType(f"{of.name}_work")
    work.folder = folder  # type: ignore[attr-defined]
    return work


def _child(answer: Connection, chapter: Path, folder: Path, number: int) -> None:
    """Runs in the judged process; everything it starts is in its process group."""
    os.setpgrp()
    of = read(chapter)
    exercise = of.exercises[number - 1]
    signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, exercise.limit)
    try:
        verdict = "passed", exercise.check(load(of, folder)) or ""
    except Mistake as mistake:
        verdict = "wrong", str(mistake)
    except NotImplementedError as error:
        verdict = "unwritten" if "replace this line" in str(error) else "wrong", str(error)
    except _Stopped as error:
        verdict = "wrong", _placed(_endless(exercise.limit), error, folder)
    except BaseException as error:  # a learner's program may raise anything
        verdict = "wrong", _explained(error, folder)
    signal.setitimer(signal.ITIMER_REAL, 0)
    with suppress(OSError, ValueError):  # closed
        sys.stdout.flush()  # what was printed comes before the verdict
    answer.send(verdict)
    os._exit(0)  # threads that hang in a deadlock must not keep it


class _Stopped(BaseException):
    """The time is up. Raised where the main thread is, to say which line that was; a program that
    catches it, or hangs outside of Python, is killed from without."""


def _stop(*_: object) -> None:
    raise _Stopped


def _explained(error: BaseException, folder: Path) -> str:
    """An exception in one line, with the last line of the learner's own that led to it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} at {Path(error.filename).name}:{error.lineno}"
    if isinstance(error, AttributeError) and getattr(error.obj, "folder", None) == folder:
        return f"the work file has no {error.name!r}"
    return _placed(f"{type(error).__name__}: {error}".strip().removesuffix(":"), error, folder)


def _placed(words: str, error: BaseException, folder: Path) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if str(folder) in f.filename]
    if frames:
        last = frames[-1]
        words += f" at {Path(last.filename).name}:{last.lineno}: {last.line}"
    return words


def _endless(limit: float) -> str:
    return f"no answer after {limit:.0f} s: an endless loop, or ranks that wait for one another?"


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """The process and all that it started."""
    assert process.pid
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it has made no group yet, or all have ended
        process.kill()
    process.join()


def _has(program: str) -> bool:
    if program == "g++":
        from minillm.kernels.runtime import emulator

        return emulator.available()
    return shutil.which(program) is not None
