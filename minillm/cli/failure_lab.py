"""`minillm failure-lab`: make a rank of a real training run fail, and see what one would be told.

    fault                  what happens on one rank                     who notices
    killed                 SIGKILL                                      watchdog, at once
    raising                an exception                                 failure.py, at once
    hung                   sleeps for an hour in Python                 watchdog, after --timeout
    stopped                SIGSTOP: all its threads stand               watchdog, after --timeout
    slow                   every step takes over 4 times as long        watchdog; the run goes on
    mismatched-collective  a barrier, where the others sum gradients    watchdog, at a heartbeat
    mismatched-shape       sums 11 numbers, where the others sum 10     watchdog, at a heartbeat
    flipped-bit            one bit of the summed gradient               checksum of the parameters
    nan                    a parameter becomes NaN                      norm of its own gradient

Each is a run of train.py under mpirun (faults.py). It passes if the report names the right rank and
comes in time, if mpirun ends as it should, and if no process is left. What was killed is then
resumed on one rank less and on one more. Exit code 0 only if all pass.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from minillm.cli.faults import train_script
from minillm.errors import UserError

_STEP, _STEPS, _MORE = 8, 24, 4  # of the fault, of a run, after resuming
_LIMIT = 240.0  # seconds: compiling the first time included
_IN_TIME = 10.0  # seconds beyond --timeout
_MARK = "MINILLM_FAILURE_LAB"  # inherited by all: mpirun's children leave its process group
_TEXT = "what goes wrong on one rank goes wrong on all, but one of them knows more than the rest. "


@dataclass(frozen=True)
class Fault:
    """What is expected of a fault.

    Attributes:
        what: happens, in words.
        report: what the report must say, as a pattern with {rank} and {ranks}.
        code: mpirun's exit code.
        options: of train.py, beside the usual ones.
    """

    what: str
    report: str
    code: int = 1
    options: tuple[str, ...] = ("--checksum_interval", "2")


FAULTS = {
    "killed": Fault("the process is killed (SIGKILL)", r"rank {rank} is gone", 9),
    "raising": Fault("an exception", r"rank {rank} of {ranks} raised:"),
    "hung": Fault("sleeps for an hour", r"rank {rank} .*, where .*: it stands at .*sleep"),
    "stopped": Fault("the process is stopped (SIGSTOP)", r"rank {rank} .*, where .*: it is silent"),
    "slow": Fault(
        "over 4 times slower from then on", r"rank {rank} is slow", 0, ("--steps", "150")
    ),
    "mismatched-collective": Fault(
        "calls a barrier, the others sum gradients",
        r"rank {rank} (is in|waits for rank \d in) barrier",
    ),
    "mismatched-shape": Fault(
        "sums 11 numbers, the others 10", r"not the same .*rank {rank} is in .* of \(11,\)"
    ),
    "flipped-bit": Fault(
        "one bit of the summed gradient flips",
        r"replicas differ .*(: rank {rank} differs from|: ranks 0 and 1 differ from one another)",
    ),
    "nan": Fault(
        "a parameter becomes NaN", r"rank {rank}: its own loss is nan", 2,
        ("--checksum_interval", "0"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Inject faults into real training runs and check that each is reported, and who is named."""

    ranks: int = 3
    """How many, at least 2."""
    timeout: float = 3.0
    """Seconds that the watchdog gives a rank: --watchdog of train.py."""


@dataclass
class Result:
    """What came of a run.

    Attributes:
        seconds: from the fault to the report; None if that did not come.
        end: seconds from the fault until mpirun ended.
        problems: why it has not passed.
    """

    seconds: float | None
    end: float
    problems: list[str]


def main(argv: list[str]) -> int:
    """Run the faults named, or all; the exit code."""
    import tyro

    names = list(takewhile(lambda word: not word.startswith("-"), argv))
    options = tyro.cli(
        Options, args=argv[len(names) :], prog="minillm failure-lab [list | FAULT ...]",
        use_underscores=True,
    )  # fmt: skip
    if names == ["list"]:
        print("\n".join(f"{name:<22} {fault.what}" for name, fault in FAULTS.items()))
        return 0
    for name in names:
        if name not in FAULTS:
            raise UserError(f"no fault {name!r}: choose {', '.join(FAULTS)}")
    if options.ranks < 2:
        raise UserError(f"--ranks {options.ranks}: a rank that fails takes another that notices")
    if options.timeout < 1:
        raise UserError(f"--timeout {options.timeout}: below a second, a slow start looks hung")
    lab = Lab(options, _mpirun())
    rows = [("fault", "rank", "report after", "all ended after", "verdict")]
    passed = True
    for number, name in enumerate(names or FAULTS):
        rank = (number + 1) % options.ranks
        result = lab.run(name, rank)
        passed &= not result.problems
        seconds = "never" if result.seconds is None else f"{result.seconds:.1f} s"
        verdict = "; ".join(result.problems) or "passed"
        rows.append((name, str(rank), seconds, f"{result.end:.1f} s", verdict))
    widths = [max(map(len, column)) for column in zip(*rows)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return 0 if passed else 1


class Lab:
    """Runs faults and says on stdout how it goes."""

    def __init__(self, options: Options, mpirun: str):
        self.ranks, self.timeout, self.mpirun = options.ranks, options.timeout, mpirun

    def run(self, name: str, rank: int) -> Result:
        """Training with this fault on this rank; what was killed is resumed afterwards."""
        fault = FAULTS[name]
        print(f"{name}: {fault.what}, rank {rank} of {self.ranks}, step {_STEP}", flush=True)
        with tempfile.TemporaryDirectory(prefix="minillm-failure-lab-") as folder:
            out, mark = Path(folder, "run"), Path(folder, "mark")
            text = Path(folder, "text.txt")
            text.write_text(_TEXT * 40)
            usual = {
                "data": text, "out": out, "tokenizer": "byte", "block_size": 16, "n_layer": 2,
                "n_head": 2, "n_embd": 32, "batch_size": 2 * (self.ranks + 1), "steps": _STEPS,
                "save_interval": 4, "eval_interval": 1000, "eval_batches": 1, "sample_tokens": 0,
                "log_interval": 1, "schedule": "constant", "watchdog": self.timeout,
            }  # fmt: skip
            words = [str(word) for key, value in usual.items() for word in (f"--{key}", value)]
            program = ["-m", "minillm.cli.faults", name, rank, _STEP, mark, *words, *fault.options]
            pattern = re.compile(fault.report.format(rank=rank, ranks=self.ranks))
            launched = Launched(self.mpirun, self.ranks, program, pattern)
            result = self._judge(fault, launched, mark)
            if name == "slow" and not result.problems:
                exposed = _last(out, "exposed")
                print(f"  metrics.jsonl: rank 0 waits for {exposed:.0%} of its last step")
            if name == "killed":
                for ranks in (self.ranks - 1, self.ranks + 1):
                    result.problems += self._resume(out, ranks)
        if result.problems:
            print(f"  FAILED: {'; '.join(result.problems)}", flush=True)
        else:
            print(f"  passed: reported after {result.seconds:.1f} s", flush=True)
        return result

    def _judge(self, fault: Fault, launched: "Launched", mark: Path) -> Result:
        if not mark.exists():
            return Result(None, 0.0, [f"ended before the fault, with exit code {launched.code}"])
        began = float(mark.read_text())
        seconds = launched.reported and launched.reported - began
        result = Result(seconds, launched.ended - began, list(launched.problems))
        if seconds is None:
            result.problems.append("no report that names the rank")
        elif seconds > self.timeout + _IN_TIME:
            result.problems.append(f"reported only after {seconds:.1f} s")
        if launched.code != fault.code:
            result.problems.append(f"exit code {launched.code}, not {fault.code}")
        elif fault.code and result.end > self.timeout + _IN_TIME:
            result.problems.append(f"ended only after {result.end:.1f} s")
        return result

    def _resume(self, out: Path, ranks: int) -> list[str]:
        """Go on from the last checkpoint for some steps; what is wrong."""
        steps = _last(out, "step") + _MORE
        print(f"  resumed on {ranks} rank{'s' * (ranks > 1)}, to step {steps}", flush=True)
        program = [train_script(), "--resume", "--out", out, "--steps", steps]
        launched = Launched(self.mpirun, ranks, program, None)
        if launched.code or _last(out, "step") != steps:
            return [f"--resume on {ranks} ranks: exit code {launched.code}"]
        return launched.problems


class Launched:
    """A program under mpirun, from its start to its end; its stderr is shown line by line.

    Attributes:
        code: mpirun's exit code.
        stderr: its lines.
        reported: when the first line came that `pattern` matches, `time.time()` seconds, or None.
        ended: when mpirun ended.
        problems: took too long, left processes behind.
    """

    def __init__(self, mpirun: str, ranks: int, program: list, pattern: "re.Pattern[str] | None"):
        mark = uuid.uuid4().hex
        self.stderr: list[str] = []
        self.reported: float | None = None
        self.problems: list[str] = []
        root = str(train_script().parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [str(word) for word in (mpirun, "-n", ranks, sys.executable, *program)], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, _MARK: mark}, start_new_session=True,
        )  # fmt: skip
        late = threading.Timer(_LIMIT, self._too_long, (mark,))
        late.start()
        assert process.stderr is not None
        for line in process.stderr:
            self.stderr.append(line)
            if pattern is not None and self.reported is None and pattern.search(line):
                self.reported = time.time()
            if not line.startswith(_LAUNCHERS) and line.strip():
                print(f"  | {line.rstrip()}", flush=True)
        self.code = process.wait()
        self.ended = time.time()
        late.cancel()
        deadline = self.ended + 3
        while (left := _marked(mark)) and time.time() < deadline:
            time.sleep(0.05)
        if left:
            self.problems.append(f"{len(left)} processes left")
            _kill(left)

    def _too_long(self, mark: str) -> None:
        self.problems.append(f"took more than {_LIMIT:.0f} s")
        _kill(_marked(mark))


# How lines begin that mpirun adds of its own.
_LAUNCHERS = ("=", "YOUR APPLICATION", "This typically", "Please see", "Abort(", "[mpi")


def _marked(mark: str) -> list[int]:
    """Processes that carry the mark, where the system tells (/proc)."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:  # it has ended, or is not ours to read
            pass
    return found


def _kill(processes: list[int]) -> None:
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _last(out: Path, key: str) -> Any:
    """What the last record of a run's metrics that has it says of `key`."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record[key] for record in records if key in record][-1]


def _mpirun() -> str:
    """mpirun of this environment, else of the system."""
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise UserError("no mpirun: pip install mpich, or give your system's MPI")
    return found
