"""Train a GPT, alone or with data-parallel ranks:  mpirun -n 4 python train.py --preset quick

Read it from top to bottom: configuration, data, model, optimiser, loop, sample. Every rank runs
this file. Each draws its share of the same global batch and sums the gradients of its share; the
ring all-reduce adds the ranks' sums while backward is still running, and all take the same step.

In goes text; out comes a folder: config.json, metrics.jsonl, loss.svg, sample.txt, checkpoints.
"""

import dataclasses
import math
import sys
import time
from contextlib import nullcontext
from functools import partial

import numpy as np

from minillm import env, no_grad
from minillm.data import Loader, prepare
from minillm.device import explain_out_of_memory, module
from minillm.distributed import DistributedDataParallel, all_reduce, on_root, take_gpu, world
from minillm.errors import UserError
from minillm.models.generate import generate
from minillm.optim import clip_grad_norm
from minillm.random import manual_seed
from minillm.train import checkpoint
from minillm.train.build import build_model, build_optimizer, build_precision, build_schedule
from minillm.train.metrics import MetricsLog, StepTimer, measure_peak, plot, read
from minillm.train.progress import Progress
from minillm.train.report import (
    conclusion,
    evaluation,
    evaluation_in_words,
    in_words,
    introduction,
    not_finite,
)
from minillm.train.run import create_folder, open_run


def main(comm, argv):
    began = time.monotonic()
    root = comm.rank == 0

    # --- configuration: rank 0 decides, the others are told ---------------------------------------
    run = on_root(comm, partial(open_run, argv, comm.size))
    config, out = run.config, run.out
    gpus = take_gpu(comm) if config.device == "cuda" else ""

    # --- data: rank 0 encodes it once, then every rank maps the same file -------------------------
    def load_data():
        return prepare(
            config.data, config.tokenizer, config.vocab_size, config.val_fraction,
            config.lowercase, config.dedup,
        )  # fmt: skip

    on_root(comm, lambda: load_data() and None)
    data = load_data()
    sizes = config.batch_size, config.block_size
    loader = Loader(data.train, *sizes, config.seed, config.device)
    val_loader = Loader(data.val, *sizes, config.seed + 1, config.device)
    prompt = data.tokenizer.opening(config.prompt)  # (T,), refused now rather than at the end

    # --- model and optimiser, from nothing or from a checkpoint -----------------------------------
    manual_seed(config.seed)
    model = build_model(config, data.tokenizer.vocab_size)
    optimizer = build_optimizer(config, model)
    lr_scale = build_schedule(config)
    precision = build_precision(config)
    step = resume(run, data, model, optimizer) if run.resume else 0
    on_root(comm, partial(create_folder, run))  # nothing can refuse the run any more
    ddp = DistributedDataParallel(
        comm, [group.flat for group in optimizer.groups], int(config.bucket_mb * 2**20)
    )
    rehearse(comm, config)
    peak = over_ranks(comm, measure_peak(config.device, config.dtype))
    if root:
        print(introduction(run, data, model, comm, env.THREADS, peak, step, gpus), flush=True)

    # --- loop -------------------------------------------------------------------------------------
    log = MetricsLog(out / "metrics.jsonl", step) if root else None
    tokens = config.batch_size * config.block_size  # of a step, over all ranks
    pieces = micro_batches(config, comm)
    timer = StepTimer(tokens, model.flops_per_token(), peak, config.device)
    with Progress(config.steps, step, show=root) as progress:
        while step < config.steps:
            manual_seed((config.seed, step, comm.rank))  # dropout: a step can be run again alone
            losses = []  # read when the step is done: reading one waits for the GPU
            for start, stop in pieces:
                x, y = loader.batch(step, start, stop)  # (b, T)
                with nullcontext() if stop == pieces[-1][1] else ddp.no_sync():
                    with precision:
                        part = model(x, y, reduction="sum", keep_logits=False)[1] / tokens
                    part.backward()
                losses.append(part.detach())
            ddp.finish()
            loss = over_ranks(comm, sum(part.item() for part in losses))
            norm, clip = clip_grad_norm(optimizer.groups, config.grad_clip or math.inf)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                starts = loader.starts(step)
                on_root(comm, partial(not_finite, out, step, config.seed, starts, loss, norm))
            scale = lr_scale(step)
            optimizer.step(clip, scale)
            optimizer.zero_grad()
            step += 1
            last = step == config.steps

            timer.step(ddp.exposed_seconds)
            if root:
                progress.advance(step)
                if step % config.log_interval == 0 or timer.steps == 1 or last:
                    lr = config.learning_rate * scale
                    record = dict(step=step, loss=loss, lr=lr, grad_norm=norm, **timer.record())
                    log.write(**record)
                    progress.metrics(step, in_words(record))
            if step % config.eval_interval == 0 or last:
                with timer.paused():
                    val_loss = evaluate(comm, model, val_loader, config)
                if root:
                    record = evaluation(step, val_loss, data.bytes_per_token)
                    log.write(**record)
                    progress.say(evaluation_in_words(record))
            if step % config.save_interval == 0 or last:
                with timer.paused():
                    on_root(comm, partial(save, out, step, config, model, optimizer, data))

    # --- what came of it --------------------------------------------------------------------------
    if root:
        sample = write_sample(out, model, config, data, prompt)
        records = read(out / "metrics.jsonl")
        entropy = data.unigram_entropy()
        ranks = f"{comm.size} rank{'s' * (comm.size > 1)}"
        plot(records, out / "loss.svg", entropy, f"{config.preset}, {ranks}")
        print(conclusion(records, entropy, out, time.monotonic() - began, sample), flush=True)


def over_ranks(comm, value):
    """The sum of a number over all ranks."""
    total = np.array([value], np.float64)
    all_reduce(comm, total)
    return total.item()


def share(config, comm):
    """Samples [start, stop) of the global batch for this rank; shares differ by at most 1."""
    return (config.batch_size * (comm.rank + i) // comm.size for i in (0, 1))


def micro_batches(config, comm):
    """This rank's share in pieces of at most `micro_batch_size`, the last maybe smaller."""
    start, stop = share(config, comm)
    most = config.micro_batch_size or stop - start
    return [(i, min(i + most, stop)) for i in range(start, stop, most)]


@no_grad()
def evaluate(comm, model, loader, config):
    """Mean validation loss in nats a token, the same on every rank: each sums its share."""
    model.eval()
    losses = []
    for i in range(config.eval_batches):
        for start, stop in micro_batches(config, comm):
            x, y = loader.batch(i, start, stop)  # (b, T)
            with build_precision(config):
                losses.append(model(x, y, reduction="sum")[1])
    model.train()
    tokens = config.eval_batches * config.batch_size * config.block_size
    return over_ranks(comm, sum(loss.item() for loss in losses)) / tokens


def rehearse(comm, config):
    """Compile all kernels of a step on a tiny model: rank 0 first, the rest from its cache."""
    tiny = dataclasses.replace(config, n_layer=1, n_embd=8 * config.n_head, block_size=16)
    for turn in range(2):
        if (comm.rank == 0) == (turn == 0):
            model = build_model(tiny, 32)
            optimizer = build_optimizer(tiny, model)
            ids = module(config.device).zeros((2, 16), "int64")  # (B, T)
            with build_precision(config):
                loss = model(ids, ids, reduction="sum")[1]
            loss.backward()
            optimizer.step(clip_grad_norm(optimizer.groups, 1.0)[1])
            with no_grad(), build_precision(config):
                model.eval()(ids, ids)
        comm.barrier()


def save(out, step, config, model, optimizer, data):
    """Write a checkpoint from which `--resume` continues exactly."""
    state = {"config": dataclasses.asdict(config), "data_key": data.key}
    checkpoint.save(out, step, model.state_dict(), optimizer.state_dict(), data.tokenizer, state)


def resume(run, data, model, optimizer):
    """Load the run's checkpoint; returns the steps it has done."""
    saved = checkpoint.load(run.resume)
    if saved.state["data_key"] != data.key:
        raise UserError(
            f"--resume: the text or the tokenizer of {run.out} is not the one it was trained on:"
            " give it with --data and --tokenizer, or start a new run"
        )
    model.load_state_dict(saved.model)
    optimizer.load_state_dict(saved.optimizer)
    return saved.step


def write_sample(out, model, config, data, prompt):
    """Text that the model goes on with from the prompt; also in sample.txt."""
    if not config.sample_tokens:
        return ""
    ids = generate(model.eval(), prompt, config.sample_tokens, temperature=0.8, seed=config.seed)
    text = config.prompt + data.tokenizer.decode([int(i) for i in ids])
    (out / "sample.txt").write_text(text + "\n", encoding="utf-8")
    return text.strip("\n")


if __name__ == "__main__":
    with explain_out_of_memory():
        main(world(), sys.argv[1:])
