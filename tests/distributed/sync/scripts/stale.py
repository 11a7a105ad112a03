"""An asynchronous parameter server on ranks of unequal speed: never too stale, ends cleanly."""

import time

import numpy as np

from minillm.distributed import all_reduce, world
from tests.distributed.sync.counting import Counting

STEPS, STALENESS = 40, 3

comm = world()
run = Counting(comm, n=100_003, staleness=STALENESS)
rng = np.random.default_rng(comm.rank)
for step in range(1, STEPS + 1):
    time.sleep(rng.exponential(2e-3 if comm.rank else 6e-3))
    run.step()
    counts = run.counts()
    assert counts.min() >= step - STALENESS, (step, counts)
    assert counts.max() <= step + STALENESS + 1, (step, counts)
    if step % 10 == 0:  # what training does now and then
        run.sync.settle()
        assert (run.counts() == step).all()
        all_reduce(comm, np.ones(3))
if comm.rank == 0:
    print("ok")
