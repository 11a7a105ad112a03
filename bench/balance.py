"""A training step with one slow rank: equal, static and dynamic shares of the batch by turns.

    mpirun -n 2 python bench/balance.py

The last rank does each of its forward and backward passes `--slow` times: real work, whose gradient
is multiplied by 0 but once. All the rest is train.py's step: a GPT, bucketed all-reduce, clipping,
AdamW. The three ways take short turns on the same model, so that a drift of the machine meets all;
static shares are measured before the first turn, dynamic ones go on from where their last turn left
them. The first turn, in which dynamic shares find themselves, is longer and not timed.

"ideal" is what the seconds a sample of the equal turns allow: B samples at the sum of all speeds,
and what else a step has, which no share changes. With more ranks than cores it says little: a rank
that has less to do then leaves its core to another.
"""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))  # `minillm` of this checkout, installed or not

import minillm  # noqa: E402  isort: skip - before NumPy, as in train.py: it sets the BLAS's threads
import numpy as np  # noqa: E402

from bench.machine import describe  # noqa: E402
from minillm.data import Loader  # noqa: E402
from minillm.distributed import DistributedDataParallel, all_gather, all_reduce, world  # noqa: E402
from minillm.distributed.balance import MODES, Balancer  # noqa: E402
from minillm.errors import UserError  # noqa: E402
from minillm.models.gpt import GPT, GPTConfig  # noqa: E402
from minillm.optim import AdamW, clip_grad_norm, param_groups  # noqa: E402

VOCABULARY = 1024


class Run:
    """A GPT, its optimiser and its data on these ranks.

    Attributes:
        done: steps so far.
        repeats: how often this rank does its work.
    """

    def __init__(self, comm, args):
        minillm.manual_seed(0)
        config = GPTConfig(
            vocab_size=VOCABULARY, block_size=args.block_size, n_layer=args.n_layer, n_head=4,
            n_embd=args.n_embd,
        )  # fmt: skip
        self.comm, self.model = comm, GPT(config)
        self.optimizer = AdamW(param_groups(self.model, 0.1), lr=1e-3, betas=(0.9, 0.99))
        self.ddp = DistributedDataParallel(
            comm, [group.flat for group in self.optimizer.groups], 1 << 20
        )
        text = np.random.default_rng(0).integers(0, VOCABULARY, 200_000)
        self.loader = Loader(text, args.batch_size, args.block_size, seed=0)
        self.tokens = args.batch_size * args.block_size
        self.done, self.repeats = 0, args.slow if comm.rank == comm.size - 1 else 1

    def compute(self, start: int, stop: int) -> float:
        """Forward and backward of samples [start, stop) of the next batch; the seconds it took."""
        began = time.perf_counter()
        x, y = self.loader.batch(self.done, start, stop)  # (b, T)
        with self.ddp.no_sync():
            for _ in range(self.repeats - 1):
                (self.loss(x, y) * 0.0).backward()
        self.loss(x, y).backward()
        return time.perf_counter() - began

    def loss(self, x, y):
        """The part of these samples in the mean loss of all ranks' tokens."""
        return self.model(x, y, reduction="sum", keep_logits=False)[1] / self.tokens

    def step(self, balancer: Balancer) -> tuple[float, float]:
        """A training step: its seconds, and this rank's a sample."""
        began = time.perf_counter()
        start, stop = balancer.share()
        computing = self.compute(start, stop)
        self.ddp.finish()
        factor = clip_grad_norm(self.optimizer.groups, 1.0)[1]
        self.optimizer.step(factor)
        self.optimizer.zero_grad()
        self.done += 1
        balancer.note(computing, stop - start)
        return time.perf_counter() - began, computing / (stop - start)


def of_all(comm, number: float) -> list[float]:
    """A number of every rank, by rank."""
    told = np.zeros(comm.size)
    told[comm.rank] = number
    all_gather(comm, told)
    return told.tolist()


def measure(comm, run: Run, args):
    """Seconds of the timed steps by mode, median seconds a sample of each rank in equal turns, the
    balancers at the end."""
    equal = Balancer(comm, args.batch_size)
    warm = [run.step(equal)[1] for _ in range(2 + args.interval)][2:]  # compiled by then
    balancers = {
        mode: Balancer(comm, args.batch_size, mode, median(warm), interval=args.interval)
        for mode in MODES
    }
    seconds, sample = {mode: [] for mode in MODES}, []
    for turn in range(args.rounds + 1):
        for mode, balancer in balancers.items():
            comm.barrier()
            steps = [run.step(balancer) for _ in range(args.steps if turn else 2 * args.interval)]
            if turn:
                seconds[mode].append([step for step, _ in steps])
            if turn and mode == "equal":
                sample += [each for _, each in steps]
    return seconds, of_all(comm, median(sample)), balancers


def report(comm, args, seconds, each, balancers) -> str:
    """The table. `seconds` are rank 0's; every step ends on all ranks with the same all-reduce."""
    tokens = args.batch_size * args.block_size
    medians = {mode: median(np.ravel(turns)) for mode, turns in seconds.items()}
    # Turn by turn, so that what drifts is in both; and the middle half of the turns' ratios.
    turns = {mode: np.median(seconds[mode], axis=1) for mode in MODES}
    shares = balancers["equal"].shares
    rest = max(0.0, medians["equal"] - max(s * n for s, n in zip(each, shares)))
    ideal = rest + args.batch_size / sum(1 / s for s in each)
    lines = [
        "ms a sample by rank, equal turns: " + ", ".join(f"{s * 1e3:.2f}" for s in each),
        "",
        f"{'':<8} {'ms a step':>10} {'tokens/s':>10} {'x equal':>8} {'middle half':>14}"
        "   samples by rank",
    ]
    for mode in MODES:
        ratio = turns["equal"] / turns[mode]
        low, high = np.quantile(ratio, [0.25, 0.75])
        spread = f"{low:.2f} to {high:.2f}"
        samples = " + ".join(map(str, balancers[mode].shares))
        lines.append(
            f"{mode:<8} {medians[mode] * 1e3:>10.1f} {tokens / medians[mode]:>10,.0f}"
            f" {np.median(ratio):>8.2f} {spread:>14}   {samples}"
        )
    lines.append(
        f"{'ideal':<8} {ideal * 1e3:>10.1f} {tokens / ideal:>10,.0f}"
        f" {medians['equal'] / ideal:>8.2f}"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slow", type=int, default=3, help="how often the last rank does its work")
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    parser.add_argument("--rounds", type=int, default=40, help="timed turns of each")
    parser.add_argument("--interval", type=int, default=10, help="steps between dynamic decisions")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--block_size", type=int, default=64)
    parser.add_argument("--n_layer", type=int, default=4)
    parser.add_argument("--n_embd", type=int, default=128)
    args = parser.parse_args()
    comm = world()
    if comm.size == 1:
        raise UserError(
            "a single rank has nobody to share with: mpirun -n 2 python bench/balance.py"
        )
    run = Run(comm, args)
    if comm.rank == 0:
        facts = describe()
        print(
            f"Training step with a rank {args.slow} times as slow, {comm.layout}\n"
            f"command: mpirun -n {comm.size} python {shlex.join(sys.argv)}\n"
            f"{facts['date']}, commit {facts['commit']}, {facts['cpu']}, {facts['cores']} cores,"
            f" {facts['threads']} threads a rank, load {os.getloadavg()[0]:.1f}\n"
            f"{facts['system']}, {facts['versions']}\n"
            f"GPT {run.model.num_parameters() / 1e6:.2f} M parameters, L={args.n_layer} H=4"
            f" C={args.n_embd} T={args.block_size} B={args.batch_size}, float32; medians of"
            f" {args.rounds} turns of {args.steps} steps each",
            flush=True,
        )
    seconds, each, balancers = measure(comm, run, args)
    parameters = np.concatenate([group.flat.data for group in run.optimizer.groups])
    most, least = parameters.copy(), parameters.copy()
    all_reduce(comm, most, "max")
    all_reduce(comm, least, "min")
    assert most.tobytes() == least.tobytes(), "ranks have different parameters"
    if comm.rank == 0:
        print(report(comm, args, seconds, each, balancers), flush=True)


if __name__ == "__main__":
    main()
