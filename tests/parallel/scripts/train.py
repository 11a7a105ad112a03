"""Train a model of tests/parallel/training.py on tp 2 x pp 2; rank 0 saves its parameters.

Then a step with dropout: gradients of what ranks have whole must be the same bits on all of them.
"""

import sys
from dataclasses import replace

import numpy as np

from minillm import manual_seed
from minillm.distributed import all_reduce, world
from minillm.parallel import Grid, split_model, whole
from minillm.parallel.splits import split_of
from tests.parallel.training import GPT2, build, run_step, train

comm = world()
grid, pipe, *_ = train(comm, build(GPT2), (0, 2, 2))
params = whole(grid, pipe, pipe.model.state_dict())
if params is not None:
    np.savez(sys.argv[1], **params)

dropped = Grid(comm, 1, 2, 2)
pipe = split_model(build(replace(GPT2, dropout=0.3), "float32"), dropped)
manual_seed((5, dropped.pp.rank))
run_step(dropped, pipe, 0)
for name, p in pipe.model.named_parameters():
    if split_of(name, GPT2) is None:
        most, least = p.grad.data.reshape(-1).copy(), p.grad.data.reshape(-1).copy()
        all_reduce(dropped.tp, most, "max")
        all_reduce(dropped.tp, least, "min")
        assert (most == least).all() and (most != 0).any(), name
