"""One flat dataclass: every field is `--field value` on the command line, a preset sets several.

What comes in: command-line words and, on --resume, the configuration of the checkpoint. What goes
out: a checked Config. Unknown options and wrong types are refused by tyro, with the nearest name;
values that cannot work are refused here, with what to do.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from minillm import env
from minillm.errors import UserError
from minillm.models.gpt import GPTConfig

Preset = Literal["quick", "shakespeare-char-cpu", "shakespeare-char", "gpt2"]


@dataclass(frozen=True)
class Config:
    """Train a GPT, on one process or on many: mpirun -n 4 python train.py --preset quick"""

    preset: Preset = "quick"
    """Named set of defaults for the options below."""
    out: str = ""
    """Run folder. Empty: runs/PRESET, or the next free number after it."""
    resume: bool = False
    """Continue the run in --out (empty: the newest run) from its last checkpoint, exactly."""
    seed: int = 1337
    """Seed of weights, batches and dropout."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Precision of parameters and arithmetic. bfloat16: of matrix products and attention alone;
    parameters, their updates, norms and losses stay float32."""

    data: str = ""
    """Text: a file, folder or glob; "shakespeare"; empty: prose from Python's own docs."""
    tokenizer: str = "bpe"
    """byte, char, bpe, or the path of a Hugging Face tokenizer.json."""
    vocab_size: int = 0
    """Size of the bpe vocabulary to train. 0: 1024 for bpe, the tokenizer's own for others."""
    val_fraction: float = 0.1
    """Share of the text, at its end, kept for validation."""
    lowercase: bool = False
    """Lower-case the text."""
    dedup: bool = False
    """Drop lines that came before."""

    block_size: int = 64
    """Tokens a sample: T, the longest context."""
    n_layer: int = 4
    """Transformer blocks: L."""
    n_head: int = 4
    """Attention heads: H."""
    n_kv_head: int = 0
    """Heads of keys and values, each shared by n_head / n_kv_head queries. 0: as many as n_head."""
    n_embd: int = 128
    """Width: C."""
    dropout: float = 0.0
    """Dropout probability."""
    bias: bool = False
    """Biases in linear layers and norms."""
    position: Literal["learned", "rotary"] = "learned"
    """Position embedding."""
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    """Normalisation."""
    activation: Literal["gelu", "swiglu"] = "gelu"
    """Non-linearity of the MLP."""
    tie_embeddings: bool = True
    """Share the token embedding with the output layer."""

    steps: int = 800
    """Optimiser steps."""
    batch_size: int = 16
    """Samples a step, over all ranks."""
    micro_batch_size: int = 0
    """Most samples a rank runs at once; more are accumulated. 0: its whole share."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Update rule."""
    learning_rate: float = 4e-3
    """Peak learning rate."""
    min_lr: float = 4e-4
    """Learning rate at the end of the schedule."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = "cosine"
    """Shape of the decay after warm-up."""
    weight_decay: float = 0.1
    """Decay of matrices and embeddings; never of biases and norms."""
    beta1: float = 0.9
    """Decay rate of Adam's first moment."""
    beta2: float = 0.99
    """Decay rate of Adam's second moment."""
    momentum: float = 0.9
    """Momentum of sgd."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 does not clip."""
    bucket_mb: float = 1.0
    """Megabytes of gradient that are all-reduced together while backward goes on."""

    log_interval: int = 10
    """Steps between lines of metrics."""
    eval_interval: int = 200
    """Steps between validation losses."""
    eval_batches: int = 20
    """Batches a validation loss."""
    save_interval: int = 400
    """Steps between checkpoints."""
    prompt: str = ""
    """What the sample at the end begins with; empty: a new line."""
    sample_tokens: int = 200
    """Length of the sample at the end; 0: none."""


PRESETS: dict[str, Config] = {
    "quick": Config(),
    # nanoGPT's recipe for a CPU, but for twice its learning rate: with two seeds, the
    # validation loss is 1.82 and 1.80 instead of 1.92 and 1.89 (2026-11-22, 200 batches each).
    "shakespeare-char-cpu": Config(
        preset="shakespeare-char-cpu", data="shakespeare", tokenizer="char", block_size=64,
        batch_size=12, steps=2000, learning_rate=2e-3, min_lr=1e-4, warmup_steps=100,
        eval_interval=1000, eval_batches=200, save_interval=500, sample_tokens=500,
    ),
    "shakespeare-char": Config(
        preset="shakespeare-char", data="shakespeare", tokenizer="char", block_size=256, n_layer=6,
        n_head=6, n_embd=384, dropout=0.2, batch_size=64, steps=5000, learning_rate=1e-3,
        min_lr=1e-4, warmup_steps=100, eval_interval=250, eval_batches=10, save_interval=250,
        sample_tokens=500,
    ),
    # GPT-2 small, 124 M parameters (Radford et al. 2019), trained as nanoGPT trains it.
    "gpt2": Config(
        preset="gpt2", vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768,
        bias=True, batch_size=480, micro_batch_size=12, steps=600_000, learning_rate=6e-4,
        min_lr=6e-5, warmup_steps=2000, beta2=0.95, bucket_mb=25.0, eval_interval=1000,
        eval_batches=40, save_interval=1000,
    ),
}  # fmt: skip

# What a checkpoint's weights, or the order of its data, depend on: fixed once a run has begun. Not
# where the text and the tokenizer lie: train.py sees to it that they are still the same.
_FIXED = (
    "preset", "vocab_size", "val_fraction", "lowercase", "dedup", "seed",
    "dtype", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "bias", "position", "norm",
    "activation", "tie_embeddings", "optimizer", "batch_size",
)  # fmt: skip


def parse(argv: list[str]) -> Config:
    """The checked configuration that `argv` asks for, without what a checkpoint may add.

    Raises:
        SystemExit: --help (0), or an unknown option or a value of the wrong type (2).
        UserError: a value that cannot work.
    """
    return _parse(argv, PRESETS.get(peek(argv, "preset"), PRESETS["quick"]))


def parse_resumed(argv: list[str], saved: dict[str, Any]) -> tuple[Config, list[str]]:
    """A checkpoint's configuration with `argv` on top, and what that changes, in words.

    Raises:
        UserError: `argv` changes something that the checkpoint's weights or data depend on.
    """
    base = dataclasses.replace(from_checkpoint(saved), resume=False)
    config = _parse(argv, base)
    changed = {
        name: f"{name} {getattr(base, name)!r} -> {getattr(config, name)!r}"
        for name in saved.keys() - {"out", "resume"}
        if getattr(base, name) != getattr(config, name)
    }
    if fixed := [text for name, text in changed.items() if name in _FIXED]:
        raise UserError(f"--resume cannot change {', '.join(sorted(fixed))}: start a new run")
    return config, sorted(changed.values())


def from_checkpoint(saved: dict[str, Any]) -> Config:
    """The configuration that a checkpoint holds.

    Raises:
        UserError: it has options that Config has not.
    """
    if unknown := sorted(saved.keys() - {field.name for field in dataclasses.fields(Config)}):
        raise UserError(
            f"the checkpoint has options unknown here ({', '.join(unknown)}): it was written by"
            " another version of minillm"
        )
    return Config(**saved)


def peek(argv: list[str], name: str) -> str:
    """The last value of an option, before anything is parsed; empty if it is not there."""
    value = ""
    for word, following in zip(argv, [*argv[1:], ""]):
        option, equals, attached = word.partition("=")
        if option == f"--{name}":
            value = attached if equals else following
    return value


def _parse(argv: list[str], base: Config) -> Config:
    import tyro

    env.print_anything()
    config = tyro.cli(Config, args=argv, default=base, use_underscores=True)
    check(config)
    return config


def check(config: Config) -> None:
    """Refuse values that cannot work.

    Raises:
        UserError: names the option, its value and the remedy.
    """
    for name in ("steps", "batch_size", "block_size", "n_layer", "n_head", "n_embd",
                 "log_interval", "eval_interval", "eval_batches", "save_interval"):  # fmt: skip
        if getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)}: must be at least 1")
    for name in ("vocab_size", "n_kv_head", "micro_batch_size", "warmup_steps", "sample_tokens",
                 "grad_clip", "weight_decay", "learning_rate", "min_lr", "seed"):  # fmt: skip
        if not getattr(config, name) >= 0:
            raise UserError(f"--{name} {getattr(config, name)}: must not be negative")
    for name, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name} {value}: must be a finite number")
    for name in ("dropout", "beta1", "beta2", "momentum"):
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)}: must be in [0, 1)")
    if not 0 < config.val_fraction < 1:
        raise UserError(f"--val_fraction {config.val_fraction}: must be between 0 and 1")
    if not config.bucket_mb > 0:
        raise UserError(f"--bucket_mb {config.bucket_mb}: must be above 0")
    if config.seed >= 2**62:
        raise UserError(f"--seed {config.seed}: must be below 2**62")
    if config.schedule != "constant" and config.min_lr > config.learning_rate > 0:
        raise UserError(
            f"--min_lr {config.min_lr} is above --learning_rate {config.learning_rate}, where the"
            " schedule begins: lower it too"
        )
    model_config(config, config.vocab_size or 1)


def model_config(config: Config, vocab_size: int) -> GPTConfig:
    """The model's part of `config`, for a tokenizer of `vocab_size`.

    Raises:
        UserError: sizes that do not go together.
    """
    shared = {f.name for f in dataclasses.fields(GPTConfig)} & vars(config).keys()
    options = {name: getattr(config, name) for name in shared}
    options |= {"vocab_size": vocab_size, "n_kv_head": config.n_kv_head or None}
    return GPTConfig(**options)
