"""The two sides of bench/train_step.py, each in a process of its own, so that neither shares the
other's allocator, thread pools or peak memory. Started by it as `python sides.py minillm|torch`;
one line of JSON in, one out:

    {job}                       -> {"parameters": n, "import_mb": ...}
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

        self.import_mb = memory_mb("VmRSS")
        manual_seed(job.seed)
        self.model = GPT(GPTConfig(**job.options)).to(job.dtype)
        with open(job.weights, "wb") as file:
            np.savez(file, **self.model.state_dict())
        self.parameters = self.model.num_parameters()
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

        self.import_mb = memory_mb("VmRSS")
        self.torch = torch
        torch.set_num_threads(job.threads)
        torch.set_default_dtype(getattr(torch, job.dtype))
        self.model = GPT(SimpleNamespace(**job.config))
        with np.load(job.weights) as weights:
            self.model.load_state_dict({k: torch.from_numpy(weights[k]) for k in weights.files})
        self.parameters = sum(p.numel() for p in self.model.parameters())
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
    return {"seconds": seconds, "losses": losses, "peak_mb": memory_mb("VmHWM")}


def memory_mb(key: str) -> float:
    """Memory of this process in MB: VmRSS is now, VmHWM the most there was (both the latter, from
    getrusage, where there is no /proc)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return next(int(s.split()[1]) * 1024 / 1e6 for s in lines if s.startswith(key))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints gets between the answers
    job = SimpleNamespace(**json.loads(sys.stdin.readline()))
    side = {"minillm": Minillm, "torch": Torch}[sys.argv[1]](job)
    answer = {"parameters": side.parameters, "import_mb": side.import_mb}
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        if "gemm" in ask:
            from minillm.train.metrics import measure_peak

            answer = {"gemm": measure_peak("cpu", job.dtype, 2048, ask["gemm"])}
        else:
            answer = run(side, job, ask["first"], ask["steps"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
