"""How far `minillm plan` is from real runs: train.py on 1, 2, 4 and 8 ranks of this machine.

    python bench/plan_check.py --rounds 3 --save plan-cpu-2026-11-22

A round: `mpirun -n CORES minillm plan --calibrate`, then train.py on each number of ranks, a few
steps; each run is compared with the prediction from its round's calibration, so that a drift of the
machine meets both. Seconds of a step are medians without the first steps; the error is predicted
over measured, minus one, median over rounds.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # `minillm` and `bench` of this checkout, installed or not

from bench import machine  # noqa: E402
from minillm.cli.checks.process import user_environment  # noqa: E402
from minillm.errors import UserError  # noqa: E402
from minillm.models.gpt import GPTConfig  # noqa: E402
from minillm.plan import Layout, Model, calibrated, predict  # noqa: E402

WARM_UP = 3  # steps left out
MODELS = {
    "0.9M": dict(n_layer=4, n_embd=128, block_size=64, batch_size=16),
    "5M": dict(n_layer=6, n_embd=256, block_size=128, batch_size=16),
}


@dataclass(frozen=True)
class Options:
    """Compare predicted with measured steps on this machine."""

    ranks: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of ranks to run."""
    rounds: int = 3
    """Calibrations, each with a run of everything after it."""
    steps: int = 10
    """Steps of a run."""
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


def measure(model: dict[str, int], ranks: int, steps: int) -> tuple[float, float]:
    """Seconds of a step and megabytes of rank 0, of a run of train.py."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--{name}={value}" for name, value in model.items()]
        run(
            ranks, "train.py", *options, f"--out={folder}/run", f"--steps={steps}",
            "--log_interval=1", f"--eval_interval={steps}", "--eval_batches=1",
            f"--save_interval={steps}", "--sample_tokens=0", "--warmup_steps=0",
        )  # fmt: skip
        lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if "tokens_per_s" in r and r["step"] > WARM_UP]
    tokens = model["batch_size"] * model["block_size"]
    seconds = median(tokens / r["tokens_per_s"] for r in records)
    return seconds, median(r["memory_mb"] for r in records)


def expect(model: dict[str, int], ranks: int) -> tuple[float, float]:
    """The same, as predicted from the latest calibration."""
    config = GPTConfig(
        block_size=model["block_size"], vocab_size=1024, n_layer=model["n_layer"], n_head=4,
        n_embd=model["n_embd"], bias=False,
    )  # fmt: skip
    share = -(-model["batch_size"] // ranks)
    layout = Layout(dp=ranks, micro_batch=share)
    found = predict(Model(config, "float32"), layout, calibrated(), model["batch_size"], ranks)
    return found.seconds, found.memory / 1e6


def compare(options: Options) -> list[str]:
    """All rounds; the table."""
    cores = len(os.sched_getaffinity(0))
    pairs: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    notes = []
    for i in range(options.rounds):
        run(cores, "-m", "minillm.cli", "plan", "--calibrate")
        notes.append(f"round {i + 1}: {calibrated().source}; load {os.getloadavg()[0]:.1f}")
        print(notes[-1], flush=True)
        for ranks in options.ranks:
            for name, model in MODELS.items():
                pair = *expect(model, ranks), *measure(model, ranks, options.steps)
                pairs.setdefault((name, ranks), []).append(pair)
                print(f"  {name} {ranks} ranks: predicted {pair[0] * 1e3:.0f} ms,"
                      f" measured {pair[2] * 1e3:.0f} ms", flush=True)  # fmt: skip
    lines = [*notes, "", f"{'model':<6} {'ranks':>5} {'predicted':>12} {'measured':>12}"
             f" {'error':>7} {'of rounds':>16} {'memory predicted, measured':>28}"]  # fmt: skip
    medians, singles = [], []
    for (name, ranks), rows in pairs.items():
        predicted, memory, measured, taken = (median(column) for column in zip(*rows))
        errors = sorted(p / m - 1 for p, _, m, _ in rows)
        medians.append(abs(median(errors)))
        singles += map(abs, errors)
        spread = f"{errors[0]:+.0%} to {errors[-1]:+.0%}"
        lines.append(
            f"{name:<6} {ranks:>5} {predicted * 1e3:>9.0f} ms {measured * 1e3:>9.0f} ms"
            f" {median(errors):>+7.0%} {spread:>16} {memory:>16.0f} MB, {taken:.0f} MB"
        )
    lines.append("")
    for what, errors in (("medians of rounds", medians), ("single runs", singles)):
        mean = sum(errors) / len(errors)
        lines.append(f"absolute error of {what}: {mean:.0%} in the mean, {max(errors):.0%} at most")
    return lines


def main(argv: list[str]) -> int:
    """Measure, print, and save where asked to."""
    import tyro

    options = tyro.cli(Options, args=argv, prog="plan_check", use_underscores=True)
    try:
        if min(*options.ranks, options.rounds) < 1 or options.steps <= WARM_UP:
            raise UserError(f"--ranks and --rounds must be at least 1, --steps above {WARM_UP}")
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
