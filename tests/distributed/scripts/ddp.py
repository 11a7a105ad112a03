"""Train the model of ddp_scenario.py on these ranks; rank 0 saves every rank's parameters."""

import sys

import numpy as np

from minillm.distributed import all_gather, world
from tests.distributed.ddp_scenario import train

comm = world()
params = train(comm)
everyone = np.zeros(comm.size * params.size)
everyone[comm.rank * params.size :][: params.size] = params
all_gather(comm, everyone)
if comm.rank == 0:
    np.save(sys.argv[1], everyone.reshape(comm.size, -1))
