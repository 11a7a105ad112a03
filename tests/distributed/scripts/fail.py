"""One rank, or all, end badly in the way named by the argument."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from minillm.distributed import all_reduce, on_root, world
from minillm.errors import UserError

how = sys.argv[1]
comm = world()
all_reduce(comm, np.ones(10))


def refuse():
    raise UserError("no such file; give --data")


if how == "all refuse":
    on_root(comm, refuse)
if comm.rank == comm.size - 1:
    if how == "raise":
        raise KeyError("the sky is falling")
    if how == "thread":
        threading.Thread(target=lambda: 1 / 0).start()
        time.sleep(60)
    if how == "exit":
        sys.exit(3)
    if how == "refuse":
        refuse()
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "die":
        os.kill(os.getpid(), 9)
    if how == "refuse unheard":
        refuse()
if how == "refuse unheard":
    sys.exit()  # and so needs nothing more from the last rank
if how == "ctrl-c":
    if comm.rank == 0:
        proxy = Path(f"/proc/{os.getppid()}/status").read_text()
        os.kill(int(proxy.split("PPid:")[1].split()[0]), signal.SIGINT)  # mpirun
    time.sleep(60)
all_reduce(comm, np.ones(1_000_000))
