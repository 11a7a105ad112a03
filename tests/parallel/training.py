"""A small training run on any grid of ranks, and the same one in a single process.

The batch is no multiple of anything: copies of the model have unequal shares, and the last
micro-batch of each is shorter. Gradients of copies are summed by a plain all-reduce.
"""

import copy
from dataclasses import replace

import numpy as np

from minillm import manual_seed
from minillm.distributed import Communicator, all_reduce
from minillm.models.gpt import GPT, GPTConfig
from minillm.optim import AdamW, param_groups
from minillm.parallel import Grid, Pipeline, split_model

GPT2 = GPTConfig(block_size=6, vocab_size=23, n_layer=2, n_head=4, n_embd=16, hidden_size=21)
LLAMA = GPTConfig(
    block_size=6, vocab_size=23, n_layer=2, n_head=8, n_kv_head=4, n_embd=32, hidden_size=37,
    bias=False, position="rotary", norm="rms_norm", activation="swiglu", tie_embeddings=False,
)  # fmt: skip
MODELS = {
    "gpt2": GPT2,
    "gpt2 deep": replace(GPT2, n_layer=5),
    "llama": LLAMA,
    "llama deep": replace(LLAMA, n_layer=5),
    "three": GPTConfig(5, vocab_size=11, n_layer=3, n_head=6, n_kv_head=3, n_embd=12),
}
BATCH, MICRO, STEPS = 9, 2, 20


def build(config: GPTConfig, dtype: str = "float64") -> GPT:
    """The whole model, the same every time. Not for several threads at once: one generator."""
    manual_seed(5)
    model = GPT(config).to(dtype)
    for p in model.parameters():  # as after some training: biases and norms at work too
        p.data *= 3
        p.data += np.random.default_rng(p.data.size).normal(0, 0.1, p.shape).astype(dtype)
    return model


def batch(config: GPTConfig, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and targets (B, T), some targets to be ignored."""
    ids = np.random.default_rng(step).integers(0, config.vocab_size, (BATCH, config.block_size + 1))
    targets = ids[:, 1:].copy()
    targets[step % BATCH, 2:] = -100
    return ids[:, :-1], targets


def share(comm: Communicator) -> list[tuple[int, int]]:
    """The micro-batches [start, stop) of this copy of the model."""
    start, stop = (BATCH * (comm.rank + i) // comm.size for i in (0, 1))
    return [(i, min(i + MICRO, stop)) for i in range(start, stop, MICRO)]


def run_step(grid: Grid, pipe: Pipeline, step: int) -> float:
    """Gradients of a step, summed over copies; the loss of all."""
    ids, targets = batch(pipe.model.config, step)
    scale = 1 / (targets != -100).sum()
    pieces = share(grid.dp)
    for kind, i in pipe.schedule(len(pieces)):
        if kind == "forward":
            rows = slice(*pieces[i])
            pipe.forward(i, ids[rows], targets[rows], scale)
        else:
            pipe.backward(i)
    pipe.sum_late()
    loss = np.array([pipe.losses()])
    all_reduce(grid.dp, loss)
    return loss.item()


def train(comm: Communicator, model: GPT, axes: tuple[int, int, int], steps: int = STEPS):
    """Train a copy of `model`, whole, on a grid; returns grid, pipe, optimiser, losses."""
    grid = Grid(comm, *axes)
    pipe = split_model(copy.deepcopy(model), grid)
    optimizer = AdamW(param_groups(pipe.model, 0.1), 1e-2)
    losses = []
    for step in range(steps):
        losses.append(run_step(grid, pipe, step))
        for group in optimizer.groups:
            group.flat.fill_missing_grads()
            all_reduce(grid.dp, group.flat.grad)
        optimizer.step()
        optimizer.zero_grad()
    return grid, pipe, optimizer, losses


def train_alone(model: GPT, steps: int = STEPS) -> tuple[dict[str, np.ndarray], list[float]]:
    """The parameters and losses that every grid must reach, by the model's own forward."""
    model, losses = copy.deepcopy(model), []
    optimizer = AdamW(param_groups(model, 0.1), 1e-2)
    for step in range(steps):
        ids, targets = batch(model.config, step)
        loss = model(ids, targets, reduction="sum", keep_logits=False)[1]
        loss = loss * (1 / (targets != -100).sum())
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict(), losses
