"""A whole training step on the GPU, a worker of bench/gpu.py: GPT-2 small, ours or PyTorch's.

A job of JSON in, an answer out (gpu_worker.py):

    {"name": "minillm" | "torch" | "compile", "dtype", "batch", "config", "weights", "seconds"}
        -> milliseconds of a step, tokens/s, peak memory, the first losses

Forward, backward, clipping, AdamW, on random tokens, each step's loss read. bfloat16 is autocast on
both sides. Each gets a process of its own, for its memory. All begin with the weights that minillm
draws first and leaves in the file `weights`, so that their first losses can be compared.
"""

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402

from bench import gpu_worker  # noqa: E402

WARM = 3  # first steps, whose losses are reported: they also compile
MOST = 30  # timed steps
LR, BETAS, DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0


def batch(job: SimpleNamespace, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Step i's tokens: x, y (B, T) int64."""
    shape = job.batch, job.config["block_size"] + 1
    tokens = np.random.default_rng(i).integers(0, job.config["vocab_size"], shape)
    return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


class Ours:
    """The step as train.py takes it."""

    def __init__(self, job: SimpleNamespace):
        import minillm
        from minillm.device import module
        from minillm.models.gpt import GPT, GPTConfig
        from minillm.optim import AdamW, param_groups

        self.xp = module(job.device)
        minillm.manual_seed(0)
        model = GPT(GPTConfig(**job.config))
        if not Path(job.weights).exists():
            with open(job.weights, "wb") as file:
                np.savez(file, **model.state_dict())
        self.model = model.to(job.device)
        self.optimizer = AdamW(param_groups(self.model, DECAY), lr=LR, betas=BETAS)
        self.precision = minillm.autocast("bfloat16", enabled=job.dtype == "bfloat16")
        self.parameters = self.model.num_parameters()
        self.flops_per_token = self.model.flops_per_token()

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        from minillm.optim import clip_grad_norm

        with self.precision:
            loss = self.model(self.xp.asarray(x), self.xp.asarray(y), keep_logits=False)[1]
        loss.backward()
        _, scale = clip_grad_norm(self.optimizer.groups, CLIP)
        self.optimizer.step(scale)
        self.optimizer.zero_grad()
        return loss.item()

    def peak_bytes(self) -> int:
        """What the pool ever took from the GPU: it gives nothing back by itself."""
        return self.xp.get_default_memory_pool().total_bytes()


class Torch:
    """The same step as one writes it in PyTorch."""

    def __init__(self, job: SimpleNamespace):
        import torch

        from bench.gpt_torch import GPT, build_optimizer

        self.torch, self.device, self.narrow = torch, job.device, job.dtype == "bfloat16"
        torch.set_float32_matmul_precision("highest")  # no TF32
        config = {"n_kv_head": None, "dropout": 0.0, "norm_eps": 1e-5, **job.config}
        heads, channels = config["n_head"], config["n_embd"]
        config |= {"kv_heads": heads, "head_size": channels // heads, "mlp_size": 4 * channels}
        self.model = GPT(SimpleNamespace(**config))
        with np.load(job.weights) as weights:
            self.model.load_state_dict({k: torch.from_numpy(weights[k]) for k in weights.files})
        self.model.to(job.device)
        self.optimizer = build_optimizer(self.model, LR, BETAS, DECAY)
        self.run = torch.compile(self.model) if job.name == "compile" else self.model
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.flops_per_token = 0

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        torch = self.torch
        x, y = (torch.from_numpy(a).to(self.device) for a in (x, y))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.narrow):
            loss = self.run(x, y)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def peak_bytes(self) -> int:
        """What its allocator ever took from the GPU."""
        return self.torch.cuda.max_memory_reserved()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to a job, with the largest batch that fits, of job["batch"] and its halves."""
    asked = SimpleNamespace(**job)
    while True:
        try:
            return measure(asked, Ours if asked.name == "minillm" else Torch)
        except Exception as error:
            if "OutOfMemory" not in type(error).__name__ or asked.batch == 1:
                raise
        asked.batch //= 2
        gc.collect()
        if asked.name == "minillm":  # the failed attempt is out of scope by now: let go of it
            sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
        else:
            sys.modules["torch"].cuda.empty_cache()


def measure(job: SimpleNamespace, make: Callable[[SimpleNamespace], Any]) -> dict[str, Any]:
    """Time steps, from the second on by the host's clock: reading a loss waits for the GPU."""
    side = make(job)
    losses = [side.step(*batch(job, i)) for i in range(WARM)]
    times: list[float] = []
    while len(times) < MOST and (len(times) < 3 or sum(times) < job.seconds):
        x, y = batch(job, WARM + len(times))
        began = time.perf_counter()
        side.step(x, y)
        times.append(time.perf_counter() - began)
    low, median, high = np.percentile(times, (20, 50, 80))
    tokens = job.batch * job.config["block_size"]
    return {
        "seconds": median,
        "p20": low,
        "p80": high,
        "steps": len(times),
        "batch": job.batch,
        "tokens_per_second": tokens / median,
        "flops_per_token": side.flops_per_token,
        "parameters": side.parameters,
        "peak_bytes": side.peak_bytes(),
        "first_losses": losses,
    }


if __name__ == "__main__":
    gpu_worker.serve(run, lambda: True)  # a process each
