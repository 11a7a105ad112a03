"""Trains the same small GPT in every way of chapter 12, or in those that are named:

    mpirun -n 4 python tutorials/ch12_beyond_synchronous/compare.py ["int8" ...]

Out: a table of validation losses after equally many samples, for two seeds, and of the bytes a rank
sends in a step. Times are left out: on one machine messages cost next to nothing.
"""

import contextlib
import io
import shlex
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from minillm.cli.faults import load_train
from minillm.distributed import all_reduce, world
from minillm.train.metrics import read

STEPS, SEEDS = 300, (1, 2)
MODEL = "--n_layer 2 --n_embd 64 --batch_size 16 --learning_rate 0.004 --min_lr 0.0004"
REST = "--eval_interval 10000 --save_interval 10000 --sample_tokens 0 --checksum_interval 0"
QUARTER = "--learning_rate 0.001 --min_lr 0.0001"
WAYS = {
    "exact": "",
    "exact, lr / 4": QUARTER,
    "exact, but 1 step late": "",
    "stale server, s = 1": "--sync parameter-server --staleness 1",
    "stale server, s = 16": "--sync parameter-server --staleness 16",
    "stale server, s = 1, lr / 4": f"--sync parameter-server --staleness 1 {QUARTER}",
    # A server's pushes without a delay: Adam at each quarter of the batch.
    "batch / 4, lr / 4": "--batch_size 4 --steps 1200 --warmup_steps 200 --eval_batches 80 "
    + QUARTER,
    "local SGD, H = 4": "--sync local-sgd --local_steps 4",
    "local SGD, H = 16": "--sync local-sgd --local_steps 16",
    "local SGD, H = 64": "--sync local-sgd --local_steps 64",
    "bf16": "--compress bf16",
    "int8": "--compress int8",
    "top 1 %": "--compress topk --topk_ratio 0.01",
    "local SGD, H = 16, int8": "--sync local-sgd --local_steps 16 --compress int8",
}


def run(comm, train, name: str, seed: int, folder: str) -> tuple[float, float]:
    """Validation loss, and bytes that a rank sent in a step: the mean over ranks and steps."""
    sent, build_sync = [], train.build_sync

    def watched(*args):
        sync = build_sync(*args)
        finish, step, before = sync.finish, sync.step, []

        def finish_late():
            finish()
            before.append([group.flat.grad.copy() for group in sync.optimizer.groups])
            for group, grad in zip(sync.optimizer.groups, before[0]):
                group.flat.grad[...] = grad
            del before[:-1]

        def counted(*args):
            step(*args)
            sent.append(comm.bytes_sent)

        sync.step = counted
        if name.endswith("late"):
            sync.finish = finish_late
        return sync

    train.build_sync = watched
    words = f"{MODEL} {REST} --steps {STEPS} {WAYS[name]} --seed {seed} --out {folder}"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train.main(comm, words.split())
    finally:
        train.build_sync = build_sync
    # Whole rounds only: from the end of a step to the end of one 256 steps later.
    each = np.array([(sent[-1] - sent[-257]) / 256 / comm.size])
    all_reduce(comm, each)
    loss = 0.0
    if comm.rank == 0:
        loss = read(Path(folder) / "metrics.jsonl")[-1]["val_loss"]
    return loss, each.item()


def main() -> None:
    train, comm = load_train(), world()
    if comm.rank == 0:
        words = shlex.join(["tutorials/ch12_beyond_synchronous/compare.py", *sys.argv[1:]])
        print(f"command: mpirun -n {comm.size} python {words}")
        today = datetime.now(timezone.utc).date()
        print(f"date:    {today}, 2 cores of a shared Xeon server, no GPU")
        print(f"model:   {MODEL}; {STEPS} steps; seeds {', '.join(map(str, SEEDS))}\n")
        print(f"{'':<27} {'validation loss':>17} {'KB a step':>11}", flush=True)
    for name in sys.argv[1:] or WAYS:
        losses = []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                loss, sent = run(comm, train, name, seed, f"{folder}/run")
            losses.append(loss)
        if comm.rank == 0:
            values = " ".join(f"{loss:8.4f}" for loss in losses)
            print(f"{name:<27} {values} {sent / 1000:11.1f}", flush=True)


if __name__ == "__main__":
    main()
