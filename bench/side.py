"""What the two sides of bench/train_step.py share: each serves training steps from a process of its
own, so that neither has the other's allocator, thread pools or peak memory. A line of JSON in, one
out:

    {job}                       -> what the side is: {"parameters": n, ...}
    {"steps": k, "first": i}    -> {"seconds": [k], "losses": [k], "peak_mb": ...}
    {"gemm": seconds}           -> {"gemm": FLOP/s}            (asked of minillm alone)
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

BETAS, DECAY, CLIP = (0.9, 0.99), 0.1, 1.0


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


def serve(build: Callable[[Any], Any]) -> None:
    """Answer on stdout what comes in on stdin, until it ends.

    Args:
        build: makes the side of a job. It has `step(x, y) -> loss` and a dict `ready`.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints gets between the answers
    job = SimpleNamespace(**json.loads(sys.stdin.readline()))
    side = build(job)
    print(json.dumps(side.ready), file=answers, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        if "gemm" in ask:
            answer = {"gemm": side.gemm(ask["gemm"])}
        else:
            answer = run(side, job, ask["first"], ask["steps"])
        print(json.dumps(answer), file=answers, flush=True)
