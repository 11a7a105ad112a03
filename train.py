"""Train a GPT, alone or on many ranks:  mpirun -n 4 python train.py --preset quick

Read it from top to bottom: configuration, data, model, optimiser, loop, sample. Every rank runs
this file. Ranks form a grid: `dp` copies of the model, each with its share of the same global
batch, kept in step by a strategy (`--sync`); each copy is on one rank, or split over `--tp` times
`--pp` of them. Whatever the grid, training is that of one process, but for rounding.

In goes text; out comes a folder: config.json, metrics.jsonl, loss.svg, sample.txt, checkpoints.
"""

import dataclasses
import math
import sys
import time
from contextlib import nullcontext
from functools import partial

from minillm import env, no_grad
from minillm.data import Loader
from minillm.device import explain_out_of_memory, synchronize
from minillm.distributed import Balancer, Watchdog, check_replicas, on_root, take_gpu, world
from minillm.distributed.sync.base import over
from minillm.errors import UserError
from minillm.models.generate import generate
from minillm.optim import clip_grad_norm
from minillm.parallel import Grid, part, split_model, whole
from minillm.random import manual_seed
from minillm.train import checkpoint
from minillm.train.build import (
    build_data,
    build_model,
    build_optimizer,
    build_precision,
    build_schedule,
    build_sync,
)
from minillm.train.metrics import MetricsLog, StepTimer, measure_peak, plot, read
from minillm.train.progress import Progress
from minillm.train.rehearsal import rehearse, seconds_a_sample
from minillm.train.report import (
    conclusion,
    evaluation,
    evaluation_in_words,
    in_words,
    introduction,
    not_finite,
)
from minillm.train.run import create_folder, open_run
from minillm.train.trace import Off, Trace


def main(comm, argv):
    """Rank 0 decides on the configuration, the others are told. A rank that hangs is found out."""
    began = time.monotonic()
    run = on_root(comm, partial(open_run, argv, comm.size))
    data = build_data(comm, run.config)  # may take long: not watched
    seconds = run.config.watchdog
    with Watchdog(comm, seconds) if seconds else nullcontext():
        train(comm, run, data, began)


def train(comm, run, data, began):
    root = comm.rank == 0
    config, out = run.config, run.out

    # --- ranks: which of them share a copy of the model, which have the same part of it -----------
    trace = Trace(comm) if config.trace else Off(comm)
    comm = trace.comm
    gpus = take_gpu(comm) if config.device == "cuda" else ""
    grid = Grid(comm, config.dp, config.tp, config.pp)

    # --- data: a share of each batch; those that share a copy of the model draw the same ----------
    sizes = config.batch_size, config.block_size
    shard = config.sharding, grid.dp.rank, grid.dp.size
    loader = Loader(data.train, *sizes, config.seed, config.device, *shard)
    val_loader = Loader(data.val, *sizes, config.seed + 1, config.device)
    prompt = data.tokenizer.opening(config.prompt)  # (T,), refused now rather than at the end

    # --- model and optimiser, from nothing or from a checkpoint -----------------------------------
    manual_seed(config.seed)
    model = build_model(config, data.tokenizer.vocab_size)  # the same on every rank
    flops = model.flops_per_token()
    pipe = split_model(model, grid)  # from here on, `model` is this rank's part of it
    optimizer = build_optimizer(config, model, counted=pipe.counted, shared=pipe.shared)
    sync = build_sync(config, grid, optimizer, pipe)
    lr_scale = build_schedule(config)
    precision = build_precision(config)
    step = resume(run, data, model, pipe, sync) if run.resume else 0
    on_root(comm, partial(create_folder, run))  # nothing can refuse the run any more
    rehearse(comm, config)
    peak = over(comm, measure_peak(config.device, config.dtype))
    speed = seconds_a_sample(config) if config.balance == "static" else 0.0
    balancer = Balancer(grid.dp, config.batch_size, config.balance, speed)
    if root:
        print(introduction(run, data, pipe, comm, env.THREADS, peak, step, gpus), flush=True)

    # --- loop -------------------------------------------------------------------------------------
    log = MetricsLog(out / "metrics.jsonl", step) if root else None
    tokens = config.batch_size * config.block_size  # of a step, over all ranks
    timer = StepTimer(flops, peak, config.device)
    with Progress(config.steps, step, show=root) as progress:
        while step < config.steps:
            # Dropout: a step can be run again alone, and ranks that split a layer draw alike.
            manual_seed((config.seed, step, grid.dp.rank, grid.pp.rank))
            start, stop = balancer.share() if sync.takes_part() else (0, 0)
            pieces = micro_batches(config, start, stop)
            own = (stop - start) * config.block_size
            divisor = sync.divisor(own, tokens)
            computing = time.perf_counter()
            for action, i in pipe.schedule(len(pieces)):
                if action == "forward":
                    with trace.span("data"):
                        x, y = loader.batch(step, *pieces[i])  # (b, T)
                    with precision:
                        pipe.forward(i, x, y, 1 / divisor)
                else:
                    with nullcontext() if i == len(pieces) - 1 else sync.no_sync():
                        pipe.backward(i)
            if config.balance == "dynamic":
                synchronize(config.device)  # a GPU has only been told what to do
            computed = time.perf_counter() - computing
            with trace.span("finish sums"):
                sync.finish()
            balancer.note(computed, stop - start)  # takes a tag of the sums, free by now
            own_loss = pipe.losses() * divisor
            most = config.grad_clip or math.inf
            norm, clip = clip_grad_norm(optimizer.groups, most, sync.total)
            last = step + 1 == config.steps
            shown = last or timer.steps == 0 or (step + 1) % config.log_interval == 0
            saving = last or (step + 1) % config.save_interval == 0
            if sync.exact or shown or saving:  # ranks that go each their own way meet less often
                loss, norm, trained = over(grid.dp, own_loss, norm * own, own)
                loss, norm = loss / trained, norm / trained
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    mine = own_loss, sync.own_squares or norm
                    drawn = start, loader.starts(step, start, stop)
                    not_finite(grid, config, out, step, loss, norm, mine, drawn)
            scale = lr_scale(step)
            with trace.span("optimizer"):
                sync.step(clip, scale)
            step += 1
            if config.checksum_interval and step % config.checksum_interval == 0 and sync.replicas:
                own_part = {name: p.data for name, p in model.named_parameters()}
                check_replicas(grid.dp, own_part, step, comm)
            timer.step(sync.exposed_seconds)
            trace.step(step)
            if root:
                progress.advance(step)
                if shown:
                    lr = config.learning_rate * scale
                    record = dict(step=step, loss=loss, lr=lr, grad_norm=norm)
                    record |= timer.record(trained)
                    log.write(**record)
                    progress.metrics(step, in_words(record))
            if step % config.eval_interval == 0 or last:
                with timer.paused(), trace.span("evaluate"):
                    sync.settle()
                    val_loss = evaluate(grid, pipe, val_loader, config)
                if root:
                    record = evaluation(step, val_loss, data.bytes_per_token)
                    log.write(**record)
                    progress.say(evaluation_in_words(record))
            if saving:
                with timer.paused(), trace.span("save"):
                    sync.settle()
                    save(grid, out, step, config, model, pipe, sync, data)

    # --- what came of it --------------------------------------------------------------------------
    trace.write(out / "trace.json")
    weights = whole(grid, pipe, model.state_dict())
    if root:
        model = build_model(config, data.tokenizer.vocab_size)
        model.load_state_dict(weights)
        sample = write_sample(out, model, config, data, prompt)
        records = read(out / "metrics.jsonl")
        entropy = data.unigram_entropy()
        ranks = f"{comm.size} rank{'s' * (comm.size > 1)}"
        plot(records, out / "loss.svg", entropy, f"{config.preset}, {ranks}")
        print(conclusion(records, entropy, out, time.monotonic() - began, sample), flush=True)


def micro_batches(config, start, stop):
    """Samples [start, stop) in pieces of at most `micro_batch_size`, the last maybe smaller."""
    most = config.micro_batch_size or max(stop - start, 1)
    return [(i, min(i + most, stop)) for i in range(start, stop, most)]


@no_grad()
def evaluate(grid, pipe, loader, config):
    """Mean validation loss in nats a token, the same on every rank: each copy sums its share."""
    pipe.model.eval()
    dp, total = grid.dp, 0.0
    share = (config.batch_size * (dp.rank + i) // dp.size for i in (0, 1))
    pieces = micro_batches(config, *share)
    for i in range(config.eval_batches):
        for piece in pieces:
            with build_precision(config):
                total += pipe.evaluate(*loader.batch(i, *piece))
    pipe.model.train()
    tokens = config.eval_batches * config.batch_size * config.block_size
    return over(grid.comm, total) / grid.tp.size / tokens


def save(grid, out, step, config, model, pipe, sync, data):
    """Write a checkpoint, the same for every grid, from which `--resume` continues exactly."""
    weights = whole(grid, pipe, model.state_dict())
    optimizer = whole(grid, pipe, sync.state_dict())
    state = {"config": dataclasses.asdict(config), "data_key": data.key, "copies": grid.dp.size}
    on_root(
        grid.comm, lambda: checkpoint.save(out, step, weights, optimizer, data.tokenizer, state)
    )


def resume(run, data, model, pipe, sync):
    """Load the run's checkpoint; returns the steps it has done."""
    saved = checkpoint.load(run.resume)
    if saved.state["data_key"] != data.key:
        raise UserError(
            f"--resume: the text or the tokenizer of {run.out} is not the one it was trained on:"
            " give it with --data and --tokenizer, or start a new run"
        )
    copies = saved.state["copies"]
    if run.config.sharding in ("block", "hash") and copies != pipe.grid.dp.size:
        raise UserError(
            f"--resume: with --sharding {run.config.sharding} each of {copies} copies has read its"
            f" own samples: start as many again, as with --dp {copies}"
        )
    model.load_state_dict(part(pipe, saved.model))
    sync.load_state_dict(part(pipe, saved.optimizer))
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
