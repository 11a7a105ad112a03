"""From the command line to a checked configuration (options.py); a preset sets several options.

What comes in: command-line words and, on --resume, the configuration of the checkpoint. What goes
out: a checked Config. Unknown options and wrong types are refused by tyro, with the nearest name;
values that cannot work are refused here, with what to do.
"""

import dataclasses
import math
from typing import Any

from minillm import env
from minillm.errors import UserError
from minillm.models.gpt import GPTConfig
from minillm.train.options import Config
from minillm.train.presets import PRESETS

# What a checkpoint's weights, or the order of its data, depend on: fixed once a run has begun. Not
# where the text and the tokenizer lie: train.py sees to it that they are still the same.
_FIXED = (
    "preset", "vocab_size", "val_fraction", "lowercase", "dedup", "seed",
    "dtype", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "bias", "position", "norm",
    "activation", "tie_embeddings", "optimizer", "batch_size", "sharding",
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
                 "log_interval", "eval_interval", "eval_batches", "save_interval", "tp", "pp",
                 "local_steps"):  # fmt: skip
        if getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)}: must be at least 1")
    for name in ("vocab_size", "n_kv_head", "micro_batch_size", "warmup_steps", "sample_tokens",
                 "grad_clip", "weight_decay", "learning_rate", "min_lr", "seed", "dp", "staleness",
                 "watchdog", "checksum_interval"):  # fmt: skip
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
    for name in ("topk_ratio", "participation"):
        if not 0 < getattr(config, name) <= 1:
            raise UserError(f"--{name} {getattr(config, name)}: must be above 0 and at most 1")
    if not config.bucket_mb * 2**20 >= 1:
        raise UserError(f"--bucket_mb {config.bucket_mb}: must be at least a byte")
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
