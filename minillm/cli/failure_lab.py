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

Each is a run of train.py under mpirun (faults.py). It passes if the report names the right rank,
and the watchdog no other, if it comes in time, if mpirun ends as it should, and if no process is
left. What was killed is then resumed on one rank less and on one more: each goes on from the
checkpoint and has the losses of the killed run in the same steps. Exit code 0 only if all pass.
"""

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from itertools import takewhile
from math import inf, isclose
from pathlib import Path

from minillm.cli.checks.mpi import find_mpirun
from minillm.cli.checks.process import ended_by_sigterm
from minillm.cli.faults import train_script
from minillm.cli.launched import Launched
from minillm.errors import UserError

_STEP, _STEPS, _MORE = 8, 24, 4  # of the fault, of a run, after resuming
_SAVED = 4  # the step of the last checkpoint before the fault
_IN_TIME = 10.0  # seconds beyond --timeout
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
    if not 1 <= options.timeout < inf:
        raise UserError(
            f"--timeout {options.timeout:g}: give at least 1 second: below, a slow start looks hung"
        )
    mpirun = find_mpirun()
    if mpirun is None:
        raise UserError("no mpirun here or in PATH: pip install mpi4py mpich")
    lab = Lab(options, mpirun)
    rows = [("fault", "rank", "report after", "all ended after", "verdict")]
    passed = True
    for number, name in enumerate(names or FAULTS):
        rank = (number + 1) % options.ranks
        with ended_by_sigterm():
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
                "save_interval": _SAVED, "eval_interval": 1000, "eval_batches": 1,
                "sample_tokens": 0, "log_interval": 1, "schedule": "constant",
                "watchdog": self.timeout,
            }  # fmt: skip
            words = [str(word) for key, value in usual.items() for word in (f"--{key}", value)]
            program = ["-m", "minillm.cli.faults", name, rank, _STEP, mark, *words, *fault.options]
            pattern = re.compile(fault.report.format(rank=rank, ranks=self.ranks))
            launched = Launched(self.mpirun, self.ranks, program, pattern)
            result = self._judge(fault, launched, mark)
            if name == "slow" and not result.problems:
                exposed = list(_all(out, "exposed").values())[-1]
                print(f"  metrics.jsonl: rank 0 waits for {exposed:.0%} of its last step")
            if name == "killed" and mark.exists():
                for ranks in (self.ranks - 1, self.ranks + 1):
                    copy = Path(shutil.copytree(out, Path(folder, f"on-{ranks}")))
                    result.problems += self._resume(copy, ranks)
        if result.problems:
            print(f"  FAILED: {'; '.join(result.problems)}", flush=True)
        else:
            print(f"  passed: reported after {result.seconds:.1f} s", flush=True)
        return result

    def _judge(self, fault: Fault, launched: Launched, mark: Path) -> Result:
        if not mark.exists():
            return Result(None, 0.0, [f"ended before the fault, with exit code {launched.code}"])
        began = float(mark.read_text())
        seconds = launched.reported and launched.reported - began
        result = Result(seconds, launched.ended - began, list(launched.problems))
        if seconds is None:
            result.problems.append("no report that names the rank")
        elif launched.wrong:
            result.problems.append(f"another report: {launched.wrong}")
        elif seconds > self.timeout + _IN_TIME:
            result.problems.append(f"reported only after {seconds:.1f} s")
        if launched.code != fault.code:
            result.problems.append(f"exit code {launched.code}, not {fault.code}")
        elif fault.code and result.end > self.timeout + _IN_TIME:
            result.problems.append(f"ended only after {result.end:.1f} s")
        return result

    def _resume(self, out: Path, ranks: int) -> list[str]:
        """Go on from the last checkpoint for some steps; what is wrong. Steps after it, which the
        killed run has done too, are to have the same losses, but for float32's rounding."""
        before = _all(out, "loss")
        last = max(before) + _MORE
        print(f"  resumed on {ranks} rank{'s' * (ranks > 1)}, to step {last}", flush=True)
        program = [train_script(), "--resume", "--out", out, "--steps", last]
        launched = Launched(self.mpirun, ranks, program, None)
        if launched.code:
            return [f"--resume on {ranks} ranks: exit code {launched.code}"]
        return launched.problems + differences(before, _all(out, "loss"), last, ranks)


def differences(
    before: dict[int, float], after: dict[int, float], last: int, ranks: int
) -> list[str]:
    """What is wrong with the losses of a resumed run, those it has kept from `before` included."""
    if sorted(after) != list(range(1, last + 1)):
        return [f"--resume on {ranks} ranks: not all steps to {last} are in metrics.jsonl"]
    again = [step for step in before if step > _SAVED]
    differ = [s for s in again if not isclose(before[s], after[s], rel_tol=1e-4)]
    if not again or differ:
        return [f"--resume on {ranks} ranks: another loss in step {[*differ, _SAVED + 1][0]}"]
    return []


def _all(out: Path, key: str) -> dict[int, float]:
    """By step, what a run's metrics say of `key`."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record[key] for record in records if key in record}
