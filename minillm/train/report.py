"""What rank 0 says in words: what is trained on what, how it goes, how it ended."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from minillm.distributed import all_reduce, on_root
from minillm.distributed.checksum import blame
from minillm.errors import UserError
from minillm.train.progress import clock


def introduction(
    run: Any, data: Any, pipe: Any, comm: Any, threads: int, peak: float, step: int, gpus: str
) -> str:
    """The lines before the first step.

    Args:
        peak: FLOP/s of all ranks together in matrix products.
        gpus: which GPU each rank has, in words; empty on the CPU.
    """
    config = pipe.model.config
    parameters = sum(math.prod(shape) for shape in pipe.shapes.values())
    reach = f"{peak / 1e9:.{0 if peak > 1e10 else 3}f} GFLOP/s"
    lines = [
        f"data     {data.source}: {data.train.size:,} tokens to train on, {data.val.size:,} to"
        f" validate, vocabulary {data.tokenizer.vocab_size:,}",
        f"model    GPT, {parameters / 1e6:.2f} M parameters: L={config.n_layer}"
        f" H={config.n_head} C={config.n_embd} T={config.block_size}, {run.config.dtype}",
        f"ranks    {comm.size}{_grid(run.config, comm.size)}, {threads}"
        f" thread{'s' * (threads > 1)} each; matrix products reach {reach} together",
        *([f"gpu      {gpus}"] if gpus else []),
        f"run      {run.out}" + (f", resumed at step {step}" if step else ""),
    ]
    return "\n".join(lines + [f"changed  {text}" for text in run.changed])


def _grid(config: Any, ranks: int) -> str:
    """How ranks share the work, in words."""
    split = config.tp * config.pp
    copies = ranks // split
    words = [f"{copies} copies" * (split > 1 and copies > 1), f"tp {config.tp}" * (config.tp > 1)]
    words += [f"pp {config.pp}" * (config.pp > 1), config.sync * (copies > 1)]
    words += [f"{config.compress} gradients" * (config.compress != "none" and copies > 1)]
    return f" ({', '.join(filter(None, words))})" if any(words) else ""


def in_words(record: dict[str, Any]) -> str:
    """A line of metrics."""
    return (
        "loss {loss:.4f}  {tokens_per_s:,.0f} tok/s  lr {lr:.2e}  norm {grad_norm:.2f}"
        "  mfu {mfu:.0%}  {memory_mb:,.0f} MB".format(**record)
    ) + (f"  exposed {record['exposed']:.0%}" if record["exposed"] else "")


def evaluation(step: int, loss: float, bytes_per_token: float) -> dict[str, Any]:
    """A validation loss in nats a token, as perplexity and as bits per byte of the text."""
    return {
        "step": step,
        "val_loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": loss / math.log(2) / bytes_per_token,
    }


def evaluation_in_words(record: dict[str, Any]) -> str:
    """A line for a validation loss."""
    return (
        "step {step:>6}  validation loss {val_loss:.4f}  perplexity {perplexity:.2f}"
        "  bits per byte {bits_per_byte:.3f}".format(**record)
    )


def conclusion(
    records: list[dict[str, Any]], entropy: float, out: Path, seconds: float, sample: str
) -> str:
    """The lines after the last step.

    Args:
        records: all metrics of the run.
        entropy: of single tokens, in nats: the loss of a model that knows only their frequencies.
    """
    val_losses = [r["val_loss"] for r in records if "val_loss" in r]
    val_loss = f"{val_losses[-1]:.4f}" if val_losses else "unknown"  # of a run long finished
    rule = "-" * 80
    text = f"\n{rule}\n{sample}\n{rule}" if sample else ""
    return (
        f"{text}\ndone in {clock(seconds)}: validation loss {val_loss}, where guessing"
        f" by frequency has {entropy:.4f}\nloss curve, sample, metrics, checkpoints: {out}/"
        f"\nmore text: {_command()} generate --out {out}"
    )


def _command() -> str:
    """How to call the minillm command of the Python that runs this."""
    script = Path(sys.executable).with_name("minillm")
    return os.path.relpath(script) if script.exists() else "python -m minillm.cli"


def not_finite(
    grid: Any, config: Any, out: Path, step: int, loss: float, norm: float,
    mine: tuple[float, float], drawn: tuple[int, np.ndarray],
) -> None:  # fmt: skip
    """Save what is needed to see the step again, and stop the run: a collective of all ranks.

    Args:
        loss, norm: of all ranks together.
        mine: loss and gradient norm, or its square, of this rank.
        drawn: number of this rank's first sample in the batch, and where its samples begin (n,).

    Raises:
        UserError: always, with where it was saved and what to try.
    """
    _, whose = blame(grid.comm, *mine)
    starts, (first, own) = np.full(config.batch_size, -1), drawn  # -1: nobody had that sample
    starts[first : first + len(own)] = own
    all_reduce(grid.dp, starts, "max")
    path = out / f"not-finite-step-{step}.json"
    record = {"step": step, "seed": config.seed, "loss": repr(loss), "grad_norm": repr(norm)}
    record |= {"ranks": whose, "starts": starts.tolist()}
    on_root(grid.comm, lambda: path.write_text(json.dumps(record) + "\n", encoding="utf-8"))
    raise UserError(
        f"step {step}: loss is {loss} and gradient norm {norm} ({whose}); the batch is saved in"
        f" {path}. Try a lower --learning_rate, a longer --warmup_steps or a smaller --grad_clip"
    )
