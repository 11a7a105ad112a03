"""Measurements in a process of their own: a fault, a hang or a dead GPU context costs one of them.

The parent gives a list of jobs, the worker answers each with a line of JSON. If the worker dies, or
takes too long, that job has failed, and a new worker begins with the next.

    parent: run_jobs(script, jobs, ...)      worker: serve(run, broken)
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GRACE = 30.0  # seconds that a job may go on after the deadline


def run_jobs(
    script: str,
    jobs: list[dict[str, Any]],
    done: Callable[[dict[str, Any], dict[str, Any]], None],
    deadline: float,
    environment: dict[str, str] | None = None,
    patience: float = 90.0,
    log: Path | None = None,
) -> int:
    """Run `jobs` in order in workers, processes of `script`, a file of this folder.

    Args:
        done: called with each job and its answer, which has an "error" if it failed.
        deadline: in time.monotonic(); what has not begun by then is left out.
        environment: of the workers.
        patience: seconds that a job may take, compilation included.
        log: what the workers say on stderr is added to this file.

    Returns:
        How many were left out.
    """
    rest = list(jobs)
    while rest and time.monotonic() < deadline:
        rest = _one_worker(script, rest, done, deadline, environment, patience, log)
    return len(rest)


def _one_worker(
    script: str,
    jobs: list[dict],
    done: Callable,
    deadline: float,
    environment: dict | None,
    patience: float,
    log: Path | None,
) -> list[dict]:
    """Jobs that a worker has not come to."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "bench" / script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment,
        )  # fmt: skip
        answers = _Lines(process.stdout)
        try:
            for i, job in enumerate(jobs):
                if time.monotonic() > deadline:
                    return jobs[i:]
                seconds = min(patience, deadline + GRACE - time.monotonic())
                answer = _ask(process, answers, job, seconds)
                if answer is None:
                    words = _epitaph(process, errors) or f"no answer within {seconds:.0f} s"
                    answer = {"error": words, "broken": True}
                broken = answer.pop("broken", False)
                done(job, answer)
                if broken:
                    return jobs[i + 1 :]
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
            errors.seek(0)
            if log and (said := errors.read()):
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("ab") as file:
                    file.write(said)
    return []


class _Lines:
    """Lines of a pipe, waited for with patience."""

    def __init__(self, pipe: Any):
        self._descriptor, self._rest = pipe.fileno(), b""
        self._ready = selectors.DefaultSelector()
        self._ready.register(pipe, selectors.EVENT_READ)

    def next(self, seconds: float) -> bytes | None:
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            if not self._ready.select(max(0.0, until - time.monotonic())):
                return None
            read = os.read(self._descriptor, 1 << 16)
            if not read:
                return None
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _ask(process: subprocess.Popen, answers: _Lines, job: dict, seconds: float) -> dict | None:
    try:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = answers.next(seconds)
    return None if line is None else json.loads(line)


def _epitaph(process: subprocess.Popen, errors: Any) -> str:
    """The last words of a worker that has died; empty if it lives."""
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        return ""
    errors.seek(0)
    lines = [s.strip() for s in errors.read().decode(errors="replace").splitlines() if s.strip()]
    return f"the process ended with {process.returncode}: {lines[-1] if lines else 'no word'}"


def serve(run: Callable[[dict[str, Any]], dict[str, Any]], broken: Callable[[], bool]) -> None:
    """Answer jobs on stdin until it ends, or until the GPU is lost to this process.

    Args:
        run: the answer to a job.
        broken: after an error: whether nothing can be measured in this process any more.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints gets between the answers
    for line in sys.stdin:
        try:
            answer = run(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            words = " / ".join(str(error).split("\n"))
            answer = {"error": f"{type(error).__name__}: {words}"[:300], "broken": broken()}
        print(json.dumps(answer), file=answers, flush=True)
        if answer.get("broken"):
            os._exit(1)  # without destructors, which a broken context may hang
