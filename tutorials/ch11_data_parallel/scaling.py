"""How a training step scales with ranks, weak and strong: of 1, 2, 4 ranks, by turns.

    mpirun -n 2 python tutorials/ch11_data_parallel/scaling.py

Weak: each rank has 12 samples. Strong: all together have 24. "alone" is a step without sums over
ranks, each for itself at the same time: what they lose by sharing the machine. "summed" is a real
one. Efficiency is tokens a second over those of one rank times their number, turn by turn.
One thread a rank; while some ranks run, the others sleep. Medians of turns.
"""

import minillm  # isort: skip - before NumPy: it sets the threads of the BLAS
import argparse
import os
import time
from datetime import datetime, timezone

import numpy as np

from minillm.distributed import SingleProcess, all_reduce, split, world
from minillm.distributed.sync import STRATEGIES
from minillm.models.gpt import GPT, GPTConfig
from minillm.optim import AdamW, param_groups

T, V = 64, 1024


class Side:
    """A model on some ranks; or, with SingleProcess, each rank for itself."""

    def __init__(self, comm):
        minillm.manual_seed(1)
        self.model = GPT(GPTConfig(block_size=T, n_layer=4, n_head=4, n_embd=128, vocab_size=V))
        optimizer = AdamW(param_groups(self.model, 0.1), lr=1e-3)
        self.sync = STRATEGIES["bucketed"](comm, optimizer, bucket_bytes=1 << 20)
        self.ids = np.random.default_rng(comm.rank).integers(0, V, (24, T + 1))

    def step(self, samples, tokens):
        x, y = self.ids[:samples, :-1].copy(), self.ids[:samples, 1:].copy()
        loss = self.model(x, y, reduction="sum", keep_logits=False)[1]
        (loss / tokens).backward()
        self.sync.finish()
        self.sync.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2, help="a turn")
    args = parser.parse_args()
    comm = world()
    counts = [p for p in (1, 2, 4) if p <= comm.size]
    sides = {}
    for p in counts:
        group = split(comm, int(comm.rank >= p))
        if comm.rank < p:
            sides["summed", p] = Side(group)
            sides["alone", p] = Side(SingleProcess())
    cases = [
        (kind, p, way) for way in ("weak", "strong") for p in counts for kind in ("alone", "summed")
    ]
    times = np.zeros((args.turns + 1, len(cases), 2))  # the first turn compiles
    order = np.random.default_rng(0)
    for turn in times:
        for i in order.permutation(len(cases)):
            kind, p, way = cases[i]
            comm.barrier()
            if comm.rank < p:
                side, samples = sides[kind, p], 12 if way == "weak" else 24 // p
                before, began = side.sync.exposed_seconds, time.perf_counter()
                for _ in range(args.steps):
                    side.step(samples, samples * p * T)
                turn[i, 0] = (time.perf_counter() - began) / args.steps
                turn[i, 1] = (side.sync.exposed_seconds - before) / args.steps
    all_reduce(comm, times.reshape(-1), "max")
    if comm.rank == 0:
        report(times[1:], cases)


def report(times, cases):
    day, load = datetime.now(timezone.utc).strftime("%Y-%m-%d"), os.getloadavg()[0]
    print(f"{day}, {len(os.sched_getaffinity(0))} cores, load {load:.1f}, 1 thread a rank")
    print("          ranks  samples    alone  summed      exposed   efficiency (quartiles)")
    print("                 a rank   ms/step ms/step   of summed")
    at = {case: i for i, case in enumerate(cases)}
    for way in ("weak", "strong"):
        one = times[:, at["summed", 1, way], 0]
        for p in sorted({p for _, p, _ in cases}):
            (alone, _), (summed, only) = (times[:, at[k, p, way]].T for k in ("alone", "summed"))
            gain = np.quantile(one / summed / (p if way == "strong" else 1), (0.25, 0.5, 0.75))
            ms = [np.median(each) * 1e3 for each in (alone, summed)]
            exposed = np.median(only / summed) * (p > 1)
            print(
                f"{way:<10}{p:>5}{12 if way == 'weak' else 24 // p:>8}{ms[0]:>10.1f}{ms[1]:>8.1f}"
                f"{exposed:>12.1%}   {gain[1]:.2f} ({gain[0]:.2f} - {gain[2]:.2f})"
            )


if __name__ == "__main__":
    main()
