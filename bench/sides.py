"""The two sides of bench/train_step.py, each in a process of its own, so that neither shares the
other's allocator, thread pools or peak memory. Started by it as `python sides.py minillm|torch`;
one line of JSON in, one out:

    {job}                       -> {"parameters": n}           (minillm: "flops_per_token" too)
    {"steps": k, "first": i}    -> {"seconds": [k], "losses": [k], "peak_mb": ...}
    {"gemm": seconds}           -> {"gemm": FLOP/s}            (minillm only)
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

BETAS, DECAY, CLIP = (0.9, 0.99), 0.1, 1.0


class Minillm:
    """Our GPT. It draws the initial weights and leaves them in the job's file."""

    def __init__(self, job: Any):
        from minillm.models.gpt import GPT, GPTConfig
        from minillm.optim import AdamW, clip_grad_norm, param_groups
        from minillm.random import manual_seed

        manual_seed(job.seed)
        self.model = GPT(GPTConfig(**job.options)).to(job.dtype)
        with open(job.weights, "wb") as file:
            np.savez(file, **self.model.state_dict())
        self.ready = {
            "parameters": self.model.num_parameters(),
            "flops_per_token": self.model.flops_per_token(),
        }
        self.optimizer = AdamW(param_groups(self.model, DECAY), lr=job.lr, betas=BETAS)
        self.clip_grad_norm = clip_grad_norm

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        _, loss = self.model(x, y)
        loss.backward()
        _, scale = self.clip_grad_norm(self.optimizer.groups, CLIP)
        self.optimizer.step(scale)
        self.optimizer.zero_grad()
        return loss.item()


class Torch:
    """The GPT of gpt_torch.py, eager, with the weights that the other side drew."""

    def __init__(self, job: Any):
        import torch

        from bench.gpt_torch import GPT, build_optimizer

        self.torch = torch
        torch.set_num_threads(job.threads)
        torch.set_default_dtype(getattr(torch, job.dtype))
        self.model = GPT(SimpleNamespace(**job.config))
        with np.load(job.weights) as weights:
            self.model.load_state_dict({k: torch.from_numpy(weights[k]) for k in weights.files})
        self.ready = {"parameters": sum(p.numel() for p in self.model.parameters())}
        self.optimizer = build_optimizer(self.model, job.lr, BETAS, DECAY)

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        _, loss = self.model(self.torch.from_numpy(x), self.torch.from_numpy(y))
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def batch(job: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Step i's tokens, the same on both sides: x, y (B, T) int64."""
    config = job.config
    shape = job.batch_size, config["block_size"] + 1
    tokens = np.random.default_rng((job.seed, i)).integers(0, config["vocab_size"], shape)
    return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


def run(side: Any, job: Any, first: int, steps: int) -> dict[str, Any]:
    """Run `steps` training steps and time each."""
    seconds, losses = [], []
    for i in range(first, first + steps):
        x, y = batch(job, i)
        began = time.perf_counter()
        losses.append(side.step(x, y))
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "losses": losses, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """The most memory that this process ever had, in MB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(s.split()[1]) * 1024 / 1e6 for s in lines if s.startswith("VmHWM"))
    except OSError:  # no /proc
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints gets between the answers
    job = SimpleNamespace(**json.loads(sys.stdin.readline()))
    side = {"minillm": Minillm, "torch": Torch}[sys.argv[1]](job)
    print(json.dumps(side.ready), file=answers, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        if "gemm" in ask:
            from bench.machine import gemm_rate

            answer = {"gemm": gemm_rate(ask["gemm"], job.dtype)}
        else:
            answer = run(side, job, ask["first"], ask["steps"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
