"""The worker of `minillm prove-ddp`, on which each strategy has something broken in it, where there
are several ranks:  python broken_worker.py train.py jobs.json"""

import sys

import numpy as np

from minillm.train.proof import worker

load, made = worker.load, 0


def mean_of_means(config, grid, optimizer, pipe, sync):
    """Each rank averages over its own tokens, and the ranks' averages are averaged."""
    sync.divisor = lambda own, everyone: own * grid.dp.size


def forgotten_tail(config, grid, optimizer, pipe, sync):
    """Rank 1 has no gradient from its last micro-batch."""
    if grid.dp.rank == 1:
        schedule = pipe.schedule

        def without_last(pieces):
            return [step for step in schedule(pieces) if step[1] < pieces - 1 or pieces == 1]

        pipe.schedule = without_last


def mixed_tags(config, grid, optimizer, pipe, sync):
    """Rank 1 takes two buckets of the same size for each other."""
    sizes = [bucket.grad.size for bucket in sync.ddp.buckets]
    one, other = next((i, j) for j in range(len(sizes)) for i in range(j) if sizes[i] == sizes[j])
    tags, reduce = {one: other, other: one}, sync.ddp.reduce
    if grid.dp.rank == 1:
        sync.ddp.reduce = lambda comm, array, tag: reduce(comm, array, tags.get(tag, tag))


def drift(config, grid, optimizer, pipe, sync):
    """A bit of rank 1's parameters flips in its fifth step: far below the bar."""
    step = sync.step

    def step_and_flip(*args):
        step(*args)
        if optimizer.steps == 5 and grid.dp.rank == 1:
            data = optimizer.groups[0].flat.data
            data[7] = np.nextafter(data[7], np.inf)

    sync.step = step_and_flip


def another_each_time(config, grid, optimizer, pipe, sync):
    """All ranks agree, but on something else in each run."""
    global made
    made += 1
    optimizer.groups[0].flat.data[...] *= 1 + 1e-15 * made


def crash(config, grid, optimizer, pipe, sync):
    """Rank 1 raises."""
    if grid.dp.rank == 1:
        raise RuntimeError("the roof is on fire")


BROKEN = {
    "naive": mean_of_means,
    "zero1": forgotten_tail,
    "bucketed": mixed_tags,
    "parameter-server": drift,
}


def load_and_break(path):
    train = load(path)
    build = train.build_sync

    def broken(config, grid, optimizer, pipe):
        sync = build(config, grid, optimizer, pipe)
        if grid.dp.size > 1:
            breaks = BROKEN[config.sync]
            if config.balance == "dynamic":
                breaks = crash
            elif config.norm == "rms_norm":
                breaks = another_each_time
            breaks(config, grid, optimizer, pipe, sync)
        return sync

    train.build_sync = broken
    return train


worker.load = load_and_break
worker.main(sys.argv[1:])
