"""Time the training step of our GPT: forward, backward, clipping, AdamW.

    python bench/train_step.py --preset base --against torch

With --against torch, the same GPT in PyTorch (gpt_torch.py) runs beside it: each in a process of
its own, by turns, a few steps each, so that a drift of the machine meets both. Both begin with the
same weights and see the same tokens; their first losses must agree, or nothing is reported.

MFU is the model's FLOPs (GPT.flops_per_token) over time and the measured rate of a matrix product.
"""

import json
import selectors
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # `minillm` and `bench` of this checkout, installed or not

import numpy as np  # noqa: E402

from bench import machine  # noqa: E402
from minillm import env  # noqa: E402
from minillm.cli.checks.process import user_environment  # noqa: E402
from minillm.errors import UserError  # noqa: E402
from minillm.models.gpt import GPTConfig  # noqa: E402
from minillm.train.config import peek  # noqa: E402

AGREE = 3  # first steps, whose losses are compared: they also compile and warm up
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}  # relative, of a loss after AGREE updates
PATIENCE = 600.0  # seconds that a side may take for an answer


@dataclass(frozen=True)
class Options:
    """Time the training step of our GPT, alone or by turns with the same GPT in PyTorch."""

    preset: Literal["small", "base"] = "small"
    """small: nanoGPT's CPU recipe; base: six layers of 384 channels, 256 tokens."""
    against: Literal["", "torch"] = ""
    """What to alternate with."""
    steps: int = 40
    """Timed steps a side."""
    rounds: int = 8
    """How often the sides take turns."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of parameters and arithmetic."""
    save: str = ""
    """Also write the result to bench/results/NAME.json."""
    batch_size: int = 12
    """B."""
    block_size: int = 64
    """T."""
    n_layer: int = 4
    """L."""
    n_head: int = 4
    """H."""
    n_kv_head: int = 0
    """G. 0: as many as n_head."""
    n_embd: int = 128
    """C."""
    vocab_size: int = 65
    """V."""
    bias: bool = False
    """Biases in linear layers and norms."""
    position: Literal["learned", "rotary"] = "learned"
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    tie_embeddings: bool = True
    """Share the token embedding with the output layer."""


PRESETS = {
    "small": Options(),
    "base": Options("base", block_size=256, n_layer=6, n_head=6, n_embd=384, batch_size=8),
}


class Side:
    """One of the two, in its process."""

    def __init__(self, name: str, job: dict[str, Any]):
        environment = user_environment() | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / f"bench/side_{name}.py")]
        self.name = name
        self.seconds: list[list[float]] = []  # by round
        self._done = 0
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._process.stdout, selectors.EVENT_READ)
        self.ready = self.ask(job)

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send a line, wait for the line that answers it."""
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline() if self._ready.select(PATIENCE) else ""
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise UserError(f"the {self.name} side died or took over {PATIENCE:.0f} s: see above")
        return json.loads(answer)

    def run(self, steps: int) -> list[float]:
        """Train for `steps`; returns their losses."""
        answer = self.ask({"steps": steps, "first": self._done})
        self._done += steps
        self.peak_mb = answer["peak_mb"]
        self.seconds.append(answer["seconds"])
        return answer["losses"]

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def measure(options: Options) -> dict[str, Any]:
    """Run both sides, or ours alone; returns what to report.

    Raises:
        UserError: the first losses differ, or a side fails.
    """
    names = ["minillm", *filter(None, [options.against])]
    sides: list[Side] = []
    with tempfile.TemporaryDirectory() as folder:
        job = describe_job(options, f"{folder}/weights.npz")
        try:
            for name in names:  # ours first: it draws the weights
                sides.append(Side(name, job))
            losses = [side.run(AGREE) for side in sides]
            check_losses(names, losses, options.dtype)
            for side in sides:
                side.seconds.clear()
            per_round = max(1, round(options.steps / options.rounds))
            for _ in range(max(1, options.steps // per_round)):
                for side in sides:
                    side.run(1 + per_round)
                    side.seconds[-1].pop(0)  # its caches hold the other side's data
            gemm = sides[0].ask({"gemm": 1.0})["gemm"]
        finally:
            for side in sides:
                side.close()
    if len({side.ready["parameters"] for side in sides}) > 1:
        raise UserError("the sides have different numbers of parameters")
    tokens = options.batch_size * options.block_size
    flops = sides[0].ready["flops_per_token"] * tokens
    result = {
        "machine": machine.describe(),
        "command": shlex.join(["python", "bench/train_step.py", *sys.argv[1:]]),
        "options": vars(options),
        "parameters": sides[0].ready["parameters"],
        "blas_threads": sides[0].ready["blas_threads"],
        "gemm_gflops": gemm / 1e9,
        "first_losses": dict(zip(names, losses)),
        "sides": {side.name: summary(side, tokens, flops, gemm) for side in sides},
    }
    if len(sides) == 2:
        result["ratio"] = ratio(*sides)
    return result


def gpt_config(options: Options) -> GPTConfig:
    """The model's part of the options."""
    shared = {field.name for field in fields(GPTConfig)} & vars(options).keys()
    chosen = {name: getattr(options, name) for name in shared}
    return GPTConfig(**chosen | {"n_kv_head": options.n_kv_head or None})


def describe_job(options: Options, weights: str) -> dict[str, Any]:
    """What both sides are told: `options` make a GPTConfig, `config` has its properties too."""
    config = gpt_config(options)
    derived = ("kv_heads", "head_size", "mlp_size")
    return {
        "options": vars(config),
        "config": vars(config) | {name: getattr(config, name) for name in derived},
        "batch_size": options.batch_size,
        "dtype": options.dtype,
        "threads": env.THREADS,
        "weights": weights,
        "seed": 1337,
        "lr": 1e-3,
    }


def check_losses(names: list[str], losses: list[list[float]], dtype: str) -> None:
    """Raise UserError unless all sides computed the same: else they are not worth comparing."""
    if not np.isfinite(losses).all():
        raise UserError(f"a loss is not finite: {dict(zip(names, losses))}")
    for name, other in zip(names[1:], losses[1:]):
        if not np.allclose(losses[0], other, rtol=TOLERANCE[dtype], atol=0):
            raise UserError(
                f"the first losses differ, so the two do not compute the same: minillm {losses[0]},"
                f" {name} {other}"
            )


def summary(side: Side, tokens: int, flops: float, gemm: float) -> dict[str, float]:
    """Figures of a side, from all its timed steps."""
    low, median, high = np.percentile(np.concatenate(side.seconds), (20, 50, 80))
    return {
        "median_ms": median * 1e3,
        "p20_ms": low * 1e3,
        "p80_ms": high * 1e3,
        "tokens_per_second": tokens / median,
        "mfu": flops / median / gemm,
        "peak_mb": side.peak_mb,
    }


def ratio(ours: Side, other: Side) -> dict[str, float]:
    """How many times faster we are: of the medians of all steps, and how it spreads over rounds."""
    rounds = [np.median(b) / np.median(a) for a, b in zip(ours.seconds, other.seconds)]
    low, high = np.percentile(rounds, (20, 80))
    medians = [np.median(np.concatenate(side.seconds)) for side in (ours, other)]
    return {"median": medians[1] / medians[0], "p20": low, "p80": high}


def report(result: dict[str, Any]) -> str:
    """The result as a table."""
    options = Options(**result["options"])
    lines = [
        f"{result['parameters'] / 1e6:.2f} M parameters, B={options.batch_size}"
        f" T={options.block_size} L={options.n_layer} H={options.n_head} C={options.n_embd}"
        f" V={options.vocab_size} {options.dtype}, {result['machine']['threads']} threads,"
        f" GEMM {result['gemm_gflops']:.0f} GFLOP/s",
        f"{'':<9} {'median':>10} {'20 % - 80 %':>19} {'tokens/s':>10} {'MFU':>6}   peak memory",
    ]
    for name, side in result["sides"].items():
        spread = f"{side['p20_ms']:.1f} - {side['p80_ms']:.1f} ms"
        rate, mfu, peak = side["tokens_per_second"], side["mfu"], side["peak_mb"]
        lines.append(
            f"{name:<9} {side['median_ms']:>7.1f} ms {spread:>19} {rate:>10.0f} {mfu:>6.1%}"
            f"   {peak:.0f} MB"
        )
    if found := result.get("ratio"):
        lines.append(
            f"{options.against} / minillm: {found['median']:.2f} times our time"
            f" (20 % - 80 % of rounds: {found['p20']:.2f} - {found['p80']:.2f};"
            " above 1 we are faster)"
        )
    return "\n".join(lines)


def parse(argv: list[str]) -> Options:
    """Options on top of the preset that they name."""
    import tyro

    base = PRESETS.get(peek(argv, "preset"), PRESETS["small"])
    options = tyro.cli(Options, args=argv, default=base, use_underscores=True)
    if min(options.steps, options.rounds, options.batch_size) < 1:
        raise UserError("--steps, --rounds and --batch_size must be at least 1")
    if options.save != Path(options.save).name:
        raise UserError(f"--save {options.save}: give a name, not a path")
    return replace(options, rounds=min(options.rounds, options.steps))


def main(argv: list[str]) -> int:
    """Measure, print, and save where asked to."""
    try:
        options = parse(argv)
        result = measure(options)
    except UserError as error:
        print(f"train_step: {error}", file=sys.stderr)
        return 2
    print(report(result))
    if options.save:
        path = ROOT / "bench/results" / f"{options.save}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"saved {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
