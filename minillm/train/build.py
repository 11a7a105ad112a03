"""From a configuration to the things it names."""

from collections.abc import Callable
from typing import Any

from minillm.autocast import autocast
from minillm.data import Dataset, prepare
from minillm.distributed import Communicator, codecs, on_root
from minillm.distributed.compression import Compressed, Plain
from minillm.distributed.sync import STRATEGIES, Strategy
from minillm.models.gpt import GPT
from minillm.optim import SGD, Adam, AdamW, Optimizer, param_groups, schedule
from minillm.optim.schedules import Schedule
from minillm.train.config import Config, model_config


def build_data(comm: Communicator, config: Config) -> Dataset:
    """The text as tokens: rank 0 encodes it once, then every rank maps the same file."""

    def load() -> Dataset:
        return prepare(
            config.data, config.tokenizer, config.vocab_size, config.val_fraction,
            config.lowercase, config.dedup,
        )  # fmt: skip

    on_root(comm, lambda: load() and None)
    return load()


def build_model(config: Config, vocab_size: int) -> GPT:
    """A GPT with fresh weights, on the configuration's device."""
    return GPT(model_config(config, vocab_size)).to(weight_dtype(config)).to(config.device)


def weight_dtype(config: Config) -> str:
    """The dtype of parameters: mixed precision has them in float32."""
    return "float32" if config.dtype == "bfloat16" else config.dtype


def build_precision(config: Config) -> autocast:
    """The block in which a forward runs: with casts for bfloat16, without effect for the others."""
    return autocast("bfloat16", enabled=config.dtype == "bfloat16")


def build_optimizer(config: Config, model: GPT, **about: Callable[[str], Any]) -> Optimizer:
    """The optimiser over `model`'s parameters, whose arrays it takes over; `about` them, where the
    model is split over ranks: `counted` and `shared`, as param_groups takes them."""
    groups = param_groups(model, config.weight_decay, **about)
    if config.optimizer == "sgd":
        return SGD(groups, config.learning_rate, momentum=config.momentum)
    kind = AdamW if config.optimizer == "adamw" else Adam
    return kind(groups, config.learning_rate, betas=(config.beta1, config.beta2))


def build_sync(config: Config, grid: Any, optimizer: Optimizer, pipe: Any) -> Strategy:
    """The strategy that keeps the copies of the model in step.

    Args:
        grid, pipe: of minillm.parallel.
    """
    options: dict[str, Any] = {}
    if config.sync in ("bucketed", "zero1"):
        options["bucket_bytes"] = int(config.bucket_mb * 2**20)
    if config.sync == "local-sgd":
        options |= {"local_steps": config.local_steps, "participation": config.participation}
        options["seed"] = config.seed
    if config.sync == "parameter-server":
        options["staleness"] = config.staleness
    sums: Plain | Compressed = Plain()
    if config.compress != "none":
        sums = Compressed(codecs.make(config.compress, config.topk_ratio))
    return STRATEGIES[config.sync](
        grid.dp, optimizer, sums=sums, model=grid.model, late=pipe.late, sum_late=pipe.sum_late,
        **options,
    )  # fmt: skip


def build_schedule(config: Config) -> Schedule:
    """The factor of the learning rate at each step; a run shorter than its warm-up ends in it."""
    floor = min(config.min_lr / config.learning_rate, 1.0) if config.learning_rate else 0.0
    total = max(config.steps, config.warmup_steps)
    return schedule(config.schedule, config.warmup_steps, total, floor)
