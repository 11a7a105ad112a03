"""`minillm prove-ddp`: a certificate that training on many ranks equals training in one process.

In: numbers of ranks. It starts train.py on them, as a user does, in every exact way there is: each
strategy, micro-batches with uneven tails, uneven shares, models split by tensors and in stages, and
runs resumed on other ranks. Out: how far the parameters ever were from those of one process,
whether all ranks had the same bits, whether a second run had them too; and, of the ways that are
not exact, the loss they reach and the bytes they send. The text is made here, nothing downloaded.
"""

import json
import os
import random
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from minillm.cli.checks.mpi import check_library
from minillm.cli.checks.process import ended_by_sigterm
from minillm.cli.proof_ranks import ROOT, Broken, launch
from minillm.errors import UserError
from minillm.train.progress import clock
from minillm.train.proof.cases import Case, Options, Stage, cases
from minillm.train.proof.certificate import about, in_words, row
from minillm.train.proof.verdict import BAR, Kept, Verdict, failed, judge, load
from minillm.train.proof.worker import Job

# Of every run: a model so small that starting Python takes longest; buckets of about a matrix.
_SHARED: Options = {
    "tokenizer": "char", "block_size": 8, "warmup_steps": 2, "schedule": "constant",
    "learning_rate": 0.01, "bucket_mb": 0.002, "log_interval": 1, "eval_batches": 8,
    "sample_tokens": 0, "watchdog": 30.0,
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """Prove that distributed training equals training in one process; prints a certificate."""

    ranks: tuple[int, ...] = (1, 2, 4)
    """Numbers of ranks to try."""
    steps: int = 20
    """Optimiser steps of a run; parameters are compared after each."""
    only: tuple[str, ...] = ()
    """Only cases whose name contains one of these words."""
    dtype: Literal["float64", "float32"] = "float64"
    """float32: differences are reported, and only equal bits are required."""
    out: str = ""
    """Also write the certificate to this file, as JSON."""


def main(argv: list[str]) -> int:
    """Run all cases, print the certificate; 0 if all exact ones are proved, else 1."""
    import tyro

    command = tyro.cli(Command, args=argv, prog="minillm prove-ddp", use_underscores=True)
    chosen = _chosen(cases(command.ranks, command.steps, command.dtype), command.only)
    train, out = ROOT / "train.py", Path(command.out)
    if not train.exists():
        raise UserError(
            f"no train.py beside the package in {ROOT}: prove-ddp proves that of a checkout:"
            " install with `pip install -e .` in one"
        )
    there = out if out.exists() else out.resolve().parent
    if command.out and (out.is_dir() or not os.access(there, os.W_OK)):
        raise UserError(f"--out {command.out}: cannot write a file there")
    began = time.monotonic()
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="prove-ddp-") as folder:
        verdicts = Proof(chosen, train, Path(folder)).run()
    made = {
        "command": shlex.join(["minillm", "prove-ddp", *argv]),
        **about(ROOT),
        "mpi": check_library(60)[0].what.partition(" (")[0],
        "steps": command.steps,
        "dtype": command.dtype,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(in_words(made, verdicts), flush=True)
    if command.out:
        results = {**made, "bar": BAR, "cases": [asdict(verdict) for verdict in verdicts]}
        try:
            out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--out {command.out}: {error.strerror}") from None
    return 1 if any(verdict.failed for verdict in verdicts) else 0


def _chosen(found: list[Case], words: Sequence[str]) -> list[Case]:
    """Those that the words name, and their references."""
    if not words:
        return found
    named = [
        case for case in found
        if case.kind != "reference" and any(w.lower() in case.name.lower() for w in words)
    ]  # fmt: skip
    if not named:
        names = dict.fromkeys(case.name for case in found if case.kind != "reference")
        raise UserError(f"--only {' '.join(words)}: no case is called so, but {'; '.join(names)}")
    return [
        case for case in found
        if case in named
        or (case.kind == "reference" and any(case.what == other.what for other in named))
    ]  # fmt: skip


# --- running them ---------------------------------------------------------------------------------


class Proof:
    """The cases, run: those of equal numbers of ranks in one start of the ranks.

    Attributes:
        verdicts: by the number of the case.
    """

    def __init__(self, chosen: list[Case], train: Path, folder: Path):
        self.chosen, self.train, self.folder = chosen, train, folder
        self.text = folder / "text.txt"
        self.text.write_text(rhyme(), encoding="utf-8")
        self.verdicts: dict[int, Verdict] = {}
        self._references: dict[str, Kept] = {}  # by what was trained
        # Runs, by case and whether it is the second; and the stage that is next.
        self._left = {(i, again): 0 for i, case in enumerate(chosen) for again in range(case.runs)}
        self._began, self._done = time.monotonic(), 0  # stages

    def run(self) -> list[Verdict]:
        """All cases; a verdict on each, printed as it is reached."""
        counts = sorted({stage.ranks for case in self.chosen for stage in case.stages})
        while self._left:
            for ranks in counts:
                while ready := [run for run in self._left if self._stage(run).ranks == ranks]:
                    self._launch(ranks, ready)
        return [self.verdicts[i] for i in range(len(self.chosen))]

    def _stage(self, run: tuple[int, int]) -> Stage:
        return self.chosen[run[0]].stages[self._left[run]]

    def _launch(self, ranks: int, ready: list[tuple[int, int]]) -> None:
        """The next stage of runs, up to the first that fails."""
        jobs = [self._job(*run) for run in ready]
        waiting = iter(ready)
        try:
            for _ in launch(ranks, self.train, jobs, self.folder):
                i, again = run = next(waiting)
                self._done += 1
                self._left[run] += 1
                if self._left[run] == len(self.chosen[i].stages):
                    del self._left[run]
                    if all(other != i for other, _ in self._left):
                        self._judge(i)
        except Broken as broken:
            i, again = next(waiting, (None, 0))
            if i is None:
                raise UserError(f"{ranks} ranks failed at their end: {broken}") from None
            for run in [run for run in self._left if run[0] == i]:
                del self._left[run]
            self._reached(i, failed(self.chosen[i], str(broken)))

    def _job(self, i: int, again: int) -> Job:
        """The next stage of a run: all but the last train half of the steps; all but the first go
        on from there."""
        case, stage = self.chosen[i], self._left[i, again]
        folder = self.folder / f"{i}-{again}"
        kept = folder / f"stage-{stage}"
        kept.mkdir(parents=True, exist_ok=True)
        last, steps = stage == len(case.stages) - 1, case.what["steps"]
        options = {"out": folder / "run", "data": self.text, "steps": steps if last else steps // 2}
        if stage == 0:
            options = {**_SHARED, **case.what, **options}
        argv = ["--resume"] if stage else []
        for name, value in {**options, **case.stages[stage].how}.items():
            if isinstance(value, bool):
                argv.append(f"--{name}" if value else f"--no_{name}")
            else:
                argv += [f"--{name}", str(value)]
        return Job(argv, str(kept), keep=case.kind != "loss" and not again, slow=case.slow)

    def _judge(self, i: int) -> None:
        case = self.chosen[i]
        folders = [self.folder / f"{i}-{again}" for again in range(case.runs)]
        runs = [load(folder, case) for folder in folders]
        what = json.dumps(case.what, sort_keys=True)
        if case.kind == "reference":
            self._references[what] = runs[0]
        if case.kind == "loss" or what in self._references:
            self._reached(i, judge(case, runs, self._references.get(what)))
        else:
            self._reached(i, failed(case, "nothing to compare with: one process failed"))
        for folder in folders:
            shutil.rmtree(folder)

    def _reached(self, i: int, verdict: Verdict) -> None:
        self.verdicts[i] = verdict
        left = sum(len(self.chosen[j].stages) - stage for (j, _), stage in self._left.items())
        eta = (time.monotonic() - self._began) / max(self._done, 1) * left
        said = f"{len(self.verdicts):>3}/{len(self.chosen)}  {row(verdict)}"
        print(f"{said}  eta {clock(eta)}" if left else said, flush=True)


def rhyme(words: int = 2000) -> str:
    """A text to learn from, always the same: lines of words that prefer each other."""
    draw = random.Random(4)
    names = ["cat", "dog", "hen", "fox", "owl", "jay", "elk", "bee"]
    verbs = ["sees", "likes", "finds", "hears", "quits", "zaps", "moves", "brings"]
    lines = []
    for _ in range(words // 4):
        who = draw.randrange(len(names))
        lines.append(f"the {names[who]} {verbs[(who + draw.randrange(2)) % 8]} the"
                     f" {names[(who + 1 + draw.randrange(3)) % 8]}\n")  # fmt: skip
    return "".join(lines)
