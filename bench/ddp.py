"""Data-parallel training steps: our strategies, and PyTorch's DDP on Gloo, by turns on these ranks.

    mpirun -n 2 python bench/ddp.py                      > bench/results/ddp-cpu-DATE-2.txt
    mpirun -n 4 python bench/ddp.py --size large         10 M parameters

Same model, weights, batches, micro-batch, optimiser and clipping; each rank has one process with as
many threads for each side. A turn is some steps of one after the other; a turn's time is that of
the slowest rank, figures are medians over turns, ratios medians of turns. "exposed" is the share of
a step in which a rank only communicates. Losses are compared after the timing.
"""

import minillm  # isort: skip - before NumPy: it sets the threads of the BLAS
import argparse
import os
import shlex
import sys
import time
from contextlib import closing, nullcontext
from pathlib import Path
from socket import socket

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # `minillm` of this checkout, installed or not

from bench.machine import describe  # noqa: E402
from bench.side import BETAS, CLIP, DECAY  # noqa: E402
from minillm.distributed import all_reduce, broadcast, world  # noqa: E402
from minillm.distributed.sync import STRATEGIES  # noqa: E402
from minillm.models.gpt import GPT, GPTConfig  # noqa: E402
from minillm.optim import AdamW, clip_grad_norm, param_groups  # noqa: E402

SIZES = {
    "small": dict(block_size=64, n_layer=4, n_head=4, n_embd=128, vocab_size=1024),
    "large": dict(block_size=64, n_layer=6, n_head=6, n_embd=384, vocab_size=65),
}
OURS = ("bucketed", "naive", "zero1")
LR = 1e-3


class Ours:
    """A step as train.py does it, with one of our strategies."""

    def __init__(self, comm, config, name, bucket_bytes):
        minillm.manual_seed(1)
        self.model, self.name = GPT(config), name
        optimizer = AdamW(param_groups(self.model, DECAY), lr=LR, betas=BETAS)
        options = {} if name == "naive" else {"bucket_bytes": bucket_bytes}
        self.sync = STRATEGIES[name](comm, optimizer, **options)

    def step(self, x, y, tokens, pieces):
        losses = []
        for piece in pieces:
            with nullcontext() if piece is pieces[-1] else self.sync.no_sync():
                part = self.model(x[piece], y[piece], reduction="sum", keep_logits=False)[1]
                (part / tokens).backward()
            losses.append(part.item())
        self.sync.finish()
        groups = self.sync.optimizer.groups
        _, clip = clip_grad_norm(groups, CLIP, self.sync.total)
        self.sync.step(clip)
        return sum(losses) / tokens

    def exposed(self):
        return self.sync.exposed_seconds


class Torch:
    """The same with torch.nn.parallel.DistributedDataParallel; it averages, so losses are means."""

    def __init__(self, comm, config, weights):
        import torch
        from torch import distributed as dist

        from bench.gpt_torch import GPT as TorchGPT
        from bench.gpt_torch import build_optimizer

        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        port = np.zeros(1, np.int64)
        with closing(socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port[0] = probe.getsockname()[1]
        broadcast(comm, port)
        torch.set_num_threads(minillm.env.THREADS)
        address, hook = f"tcp://127.0.0.1:{port[0]}", sys.excepthook
        dist.init_process_group("gloo", init_method=address, rank=comm.rank, world_size=comm.size)
        sys.excepthook = hook  # PyTorch's holds back what is said of an error until it is too late
        model = TorchGPT(config)
        model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()})
        self.torch, self.size = torch, comm.size
        self.model = torch.nn.parallel.DistributedDataParallel(model)
        self.optimizer = build_optimizer(self.model.module, LR, BETAS, DECAY)

    def step(self, x, y, tokens, pieces):
        losses = []
        for piece in pieces:
            with nullcontext() if piece is pieces[-1] else self.model.no_sync():
                ids, targets = (self.torch.from_numpy(a[piece]) for a in (x, y))
                _, loss = self.model(ids, targets)
                share = ids.numel() * self.size / tokens  # DDP divides by the ranks
                (loss * share).backward()
            losses.append(loss.item() * ids.numel() / tokens)
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sum(losses)

    def exposed(self):
        return float("nan")


def over(comm, value, op):
    array = np.array([value], np.float64)
    all_reduce(comm, array, op=op)
    return array.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=12, help="samples a step and rank")
    parser.add_argument("--micro", type=int, default=0, help="of them at once; 0: all")
    parser.add_argument("--steps", type=int, default=4, help="a turn")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--bucket_mb", type=float, default=1.0)
    args = parser.parse_args()
    comm = world()
    if comm.size == 1:
        raise SystemExit("start it on ranks: mpirun -n 2 python bench/ddp.py")
    config = GPTConfig(bias=False, **SIZES[args.size])
    minillm.manual_seed(1)
    weights = GPT(config).state_dict()
    bucket = int(args.bucket_mb * 2**20)
    rivals = {name: Ours(comm, config, name, bucket) for name in OURS}
    try:
        rivals["PyTorch DDP"] = Torch(comm, config, weights)
    except ImportError:
        pass
    micro = args.micro or args.batch
    pieces = [slice(i, min(i + micro, args.batch)) for i in range(0, args.batch, micro)]
    tokens = args.batch * config.block_size * comm.size
    shape = args.batch, config.block_size + 1
    seconds = {name: [] for name in rivals}
    losses = {name: [] for name in rivals}
    exposed = {name: [] for name in rivals}
    order = np.random.default_rng(0)
    for turn in range(-1, args.turns):  # the first one is not counted: it compiles
        for i in order.permutation(len(rivals)):  # the same on all ranks
            name, side = list(rivals.items())[i]
            comm.barrier()
            hidden, began = side.exposed(), time.perf_counter()
            for step in range(args.steps):
                draw = np.random.default_rng((comm.rank, turn + 1, step))
                ids = draw.integers(0, config.vocab_size, shape)
                x, y = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])
                losses[name].append(over(comm, side.step(x, y, tokens, pieces), "sum"))
            took = over(comm, (time.perf_counter() - began) / args.steps, "max")
            if turn >= 0:
                seconds[name].append(took)
                only = over(comm, (side.exposed() - hidden) / args.steps, "mean")
                exposed[name].append(only / took)
    if comm.rank == 0:
        print(report(comm, args, rivals, seconds, exposed, tokens))
        for name in rivals:
            assert np.allclose(losses[name], losses["bucketed"], rtol=2e-3), f"losses: {name}"


def report(comm, args, rivals, seconds, exposed, tokens) -> str:
    facts = describe()
    parameters = rivals["bucketed"].model.num_parameters()
    lines = [
        f"Data-parallel training steps, float32: {parameters / 1e6:.1f} M parameters, {args.batch}"
        f" samples a rank in micro-batches of {args.micro or args.batch}, buckets of"
        f" {args.bucket_mb:g} MB; {comm.layout}, {minillm.env.THREADS} thread each",
        f"command: mpirun -n {comm.size} python {shlex.join(sys.argv)}",
        f"{facts['date']}, commit {facts['commit']}, {facts['cpu']}, {facts['cores']} cores,"
        f" load {os.getloadavg()[0]:.1f}",
        f"{facts['system']}, {facts['versions']}",
        "",
        f"{'':<14}{'ms/step':>9}{'tokens/s':>11}{'exposed':>9}   over bucketed's time (quartiles)",
    ]
    ours = np.array(seconds["bucketed"])
    for name, times in seconds.items():
        q1, q2, q3 = np.quantile(np.array(times) / ours, (0.25, 0.5, 0.75))
        median, only = np.median(times), np.median(exposed[name])
        shown = "" if np.isnan(only) else f"{only:.1%}"
        lines.append(
            f"{name:<14}{median * 1e3:>9.1f}{tokens / median:>11,.0f}{shown:>9}   {q2:.2f}x"
            f" ({q1:.2f} - {q3:.2f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
