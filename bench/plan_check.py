"""How far `minillm plan` is from real runs: train.py on 1 to 8 ranks, in 12 layouts of them.

    python bench/plan_check.py --rounds 3 --save plan-cpu-2026-11-22

A round: `mpirun -n CORES minillm plan --calibrate`, then train.py in each layout, some steps of the
same model and batch; a pipeline has 4 micro-batches, the others compute their share at once. Each
run is compared with the prediction from its round's calibration, so that a drift of the machine
meets both. Seconds of a step are medians without the first steps; the error is predicted over
measured, minus one, median over rounds. Memory is rank 0's, which in a pipeline is not the fullest.

Where others use the machine, a run says little. As long as --patience lasts, the check waits for
idle cores before each, and repeats one in which others had over 10 % of them (/proc/stat, less our
own time; what neighbours of a virtual machine steal counts). What they had is in the table.
"""

import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # `minillm` and `bench` of this checkout, installed or not

from bench import machine  # noqa: E402
from minillm.cli.checks.process import user_environment  # noqa: E402
from minillm.errors import UserError  # noqa: E402
from minillm.models.gpt import GPTConfig  # noqa: E402
from minillm.plan import Layout, Model, calibrated, predict  # noqa: E402
from minillm.plan.command import options as options_of  # noqa: E402

T = TypeVar("T")
WARM_UP = 3  # steps left out
QUIET = 0.1  # share of the cores that others may have
MODELS = {
    "0.9M": dict(n_layer=4, n_embd=128, block_size=64, batch_size=16),
    "5M": dict(n_layer=6, n_embd=256, block_size=128, batch_size=16),
}
LAYOUTS = (
    *(Layout(dp=n, micro_batch=16 // n) for n in (1, 2, 4, 8)),
    *(Layout(dp=n, zero=1, micro_batch=16 // n) for n in (2, 4, 8)),
    Layout(tp=2, micro_batch=16),
    Layout(pp=2, micro_batch=4),
    Layout(tp=2, pp=2, micro_batch=4),
    Layout(dp=2, tp=2, micro_batch=8),
    Layout(dp=2, pp=2, micro_batch=2),
)


@dataclass(frozen=True)
class Options:
    """Compare predicted with measured steps on this machine."""

    rounds: int = 3
    """Calibrations, each with a run of everything after it."""
    steps: int = 10
    """Steps of a run."""
    patience: float = 600.0
    """Seconds to spend on waiting for idle cores, and on what others disturbed."""
    save: str = ""
    """Also write the table to bench/results/NAME.txt."""


def run(ranks: int, *words: object) -> None:
    """`mpirun -n ranks python words`, from the repository, as a user would."""
    launcher = Path(sys.executable).with_name("mpirun")
    command = [str(launcher), "-n", str(ranks), sys.executable, *map(str, words)]
    environment = user_environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed:\n{done.stderr.strip()[-800:]}")


def busy() -> float:
    """Seconds that cores were in use so far, by anybody, neighbours of a virtual machine too."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    ticks = [int(word) for word in words[1:9]]
    idle = ticks[3] + ticks[4]  # and waiting for a disk
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    """Seconds that this process and those that it has started and waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


class Quiet:
    """Runs things while the machine is idle, as far as patience goes."""

    def __init__(self, patience: float):
        self.patience, self.cores = patience, len(os.sched_getaffinity(0))

    def __call__(self, work: Callable[[], T]) -> tuple[T, float]:
        """What `work` returned when others had the least, and their share of the cores then."""
        tries, began = [], time.perf_counter()
        while not tries or (tries[-1][0] > QUIET and self.patience > 0):
            self.patience -= time.perf_counter() - began
            began = time.perf_counter()
            while time.perf_counter() - began < self.patience:
                if self._others(lambda: time.sleep(2.0))[0] <= QUIET:
                    break
            self.patience -= time.perf_counter() - began
            began = time.perf_counter()
            tries.append(self._others(work))
        others, result = min(tries, key=lambda pair: pair[0])
        return result, others

    def _others(self, work: Callable[[], T]) -> tuple[float, T]:
        began, before = time.perf_counter(), busy() - own()
        result = work()
        used = busy() - own() - before
        return max(0.0, used / (time.perf_counter() - began) / self.cores), result


def measure(model: dict[str, int], layout: Layout, steps: int) -> tuple[float, float]:
    """Seconds of a step and megabytes of rank 0, of a run of train.py."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--{name}={value}" for name, value in (model | options_of(layout)).items()]
        run(
            layout.ranks, "train.py", *options, f"--out={folder}/run",
            f"--steps={steps}", "--log_interval=1", f"--eval_interval={steps}", "--eval_batches=1",
            f"--save_interval={steps}", "--sample_tokens=0", "--warmup_steps=0",
        )  # fmt: skip
        lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if "step_ms" in r and r["step"] > WARM_UP]
    return median(r["step_ms"] for r in records) / 1e3, median(r["memory_mb"] for r in records)


def expect(model: dict[str, int], layout: Layout) -> tuple[float, float]:
    """The same, as predicted from the latest calibration."""
    config = GPTConfig(
        block_size=model["block_size"], vocab_size=1024, n_layer=model["n_layer"], n_head=4,
        n_embd=model["n_embd"], bias=False,
    )  # fmt: skip
    local = layout.ranks
    found = predict(Model(config, "float32"), layout, calibrated(), model["batch_size"], local)
    return found.seconds, found.memory / 1e6


def compare(options: Options) -> list[str]:
    """All rounds; the table."""
    quiet = Quiet(options.patience)
    pairs: dict[tuple[str, Layout], list[tuple[float, ...]]] = {}
    notes = []
    for i in range(options.rounds):
        calibrate = partial(run, quiet.cores, "-m", "minillm.cli", "plan", "--calibrate")
        others = quiet(calibrate)[1]
        notes.append(f"round {i + 1}: {calibrated().source}; others had {others:.0%} of the cores,"
                     f" load {os.getloadavg()[0]:.1f}")  # fmt: skip
        print(notes[-1], flush=True)
        for layout in LAYOUTS:
            for name, model in MODELS.items():
                found, others = quiet(partial(measure, model, layout, options.steps))
                pair = *expect(model, layout), *found, others
                pairs.setdefault((name, layout), []).append(pair)
                print(f"  {name} {layout}: predicted {pair[0] * 1e3:.0f} ms, measured"
                      f" {pair[2] * 1e3:.0f} ms, others {others:.0%}", flush=True)  # fmt: skip
    lines = [*notes, "", f"{'model':<5} {'ranks':>5} {'layout':<20} {'predicted':>9}"
             f" {'measured':>8} {'error':>6} {'of rounds':>14} {'others':>6}"
             "  memory predicted, measured"]  # fmt: skip
    medians: dict[bool, list[float]] = {True: [], False: []}  # by whether the machine was idle
    for (name, layout), rows in pairs.items():
        predicted, memory, measured, taken, others = (median(column) for column in zip(*rows))
        errors = sorted(p / m - 1 for p, _, m, _, _ in rows)
        medians[others <= QUIET].append(abs(median(errors)))
        spread = f"{errors[0]:+.0%} to {errors[-1]:+.0%}"
        lines.append(
            f"{name:<5} {layout.ranks:>5} {str(layout):<20} {predicted * 1e3:>6.0f} ms"
            f" {measured * 1e3:>5.0f} ms {median(errors):>+6.0%} {spread:>14} {others:>6.0%}"
            f"  {memory:.0f} MB, {taken:.0f} MB" + " (first stage)" * (layout.pp > 1)
        )
    lines.append("")
    what = {True: f"others had at most {QUIET:.0%} of the cores", False: "others had more"}
    for idle, errors in medians.items():
        if errors:
            lines.append(
                f"absolute error where {what[idle]}: {sum(errors) / len(errors):.0%} in the mean,"
                f" {max(errors):.0%} at most, {len(errors)} of {len(pairs)} rows"
            )
    return lines


def main(argv: list[str]) -> int:
    """Measure, print, and save where asked to."""
    import tyro

    options = tyro.cli(Options, args=argv, prog="plan_check", use_underscores=True)
    try:
        if options.rounds < 1 or not options.patience >= 0 or options.steps <= WARM_UP:
            raise UserError(
                f"--rounds must be at least 1, --steps above {WARM_UP}, --patience at least 0"
            )
        if options.save != Path(options.save).name:
            raise UserError(f"--save {options.save}: give a name, not a path")
        lines = compare(options)
    except UserError as error:
        print(f"plan_check: {error}", file=sys.stderr)
        return 2
    text = "\n".join(lines)
    print(f"\n{text}")
    if options.save:
        head = [f"{name}: {value}" for name, value in machine.describe().items()]
        head.append(f"command: {shlex.join(['python', 'bench/plan_check.py', *argv])}")
        path = ROOT / "bench/results" / f"{options.save}.txt"
        path.write_text("\n".join([*head, "", text, ""]), encoding="utf-8")
        print(f"saved {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
