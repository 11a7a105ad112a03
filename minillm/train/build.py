"""From a configuration to the things it names."""

from minillm.autocast import autocast
from minillm.models.gpt import GPT
from minillm.optim import SGD, Adam, AdamW, Optimizer, param_groups, schedule
from minillm.optim.schedules import Schedule
from minillm.train.config import Config, model_config


def build_model(config: Config, vocab_size: int) -> GPT:
    """A GPT with fresh weights, on the configuration's device."""
    return GPT(model_config(config, vocab_size)).to(weight_dtype(config)).to(config.device)


def weight_dtype(config: Config) -> str:
    """The dtype of parameters: mixed precision has them in float32."""
    return "float32" if config.dtype == "bfloat16" else config.dtype


def build_precision(config: Config) -> autocast:
    """The block in which a forward runs: with casts for bfloat16, without effect for the others."""
    return autocast("bfloat16", enabled=config.dtype == "bfloat16")


def build_optimizer(config: Config, model: GPT) -> Optimizer:
    """The optimiser over `model`'s parameters, whose arrays it takes over."""
    groups = param_groups(model, config.weight_decay)
    if config.optimizer == "sgd":
        return SGD(groups, config.learning_rate, momentum=config.momentum)
    kind = AdamW if config.optimizer == "adamw" else Adam
    return kind(groups, config.learning_rate, betas=(config.beta1, config.beta2))


def build_schedule(config: Config) -> Schedule:
    """The factor of the learning rate at each step; a run shorter than its warm-up ends in it."""
    floor = min(config.min_lr / config.learning_rate, 1.0) if config.learning_rate else 0.0
    total = max(config.steps, config.warmup_steps)
    return schedule(config.schedule, config.warmup_steps, total, floor)
