"""Optimisers, learning-rate schedules and gradient clipping, over flat parameter buffers."""

from minillm.optim.adam import Adam, AdamW
from minillm.optim.clip import clip_grad_norm
from minillm.optim.optimizer import Optimizer, ParamGroup, Shard, param_groups
from minillm.optim.schedules import schedule
from minillm.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "ParamGroup",
    "Shard",
    "clip_grad_norm",
    "param_groups",
    "schedule",
]
