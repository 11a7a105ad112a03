"""Some steps under a watchdog; in step 5 one rank does what the first argument says."""

import os
import signal
import subprocess
import sys
import time

import numpy as np

from minillm.distributed import all_gather, all_reduce, on_root, world
from minillm.distributed.watchdog import Watchdog
from minillm.errors import UserError

how, bad, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])


def burn(duration):
    """Work in Python, which gives its lock away now and then."""
    end = time.monotonic() + duration
    while time.monotonic() < end:
        sum(range(10_000))


comm = world()
pids = np.zeros(comm.size, np.int64)
pids[comm.rank] = os.getpid()
all_gather(comm, pids)
all_reduce(comm, np.ones(1000))  # loads what it needs
with Watchdog(comm, seconds) as dog:
    for step in range(12):
        array = np.ones(1000)
        if comm.rank == bad and step == 5:
            print(f"fault at {time.time()}", flush=True)
            if how == "hang":
                time.sleep(600)
            if how == "wait for a message":
                comm.recv(array, (bad + 1) % comm.size, tag=7)
            if how in ("kill", "stop"):
                os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            if how == "suspend":  # a shell, which goes on itself: all stop, this rank the longest
                ranks = " ".join(map(str, pids.tolist()))
                words = f"kill -STOP {ranks}; sleep 6; kill -CONT {ranks.partition(' ')[2]}"
                subprocess.Popen(["sh", "-c", f"{words}; sleep 0.3; kill -CONT {os.getpid()}"])
                time.sleep(0.5)
            if how == "skip":
                comm.barrier()
            if how == "shape":
                array = np.ones(900)
            if how == "raise":
                raise KeyError("the sky is falling")
            if how == "refuse":
                raise UserError("no such file; give --data")
            if how == "work":
                burn(1.7 * seconds)
            if how == "busy":
                with dog.busy("saving"):
                    time.sleep(1.7 * seconds)
        all_reduce(comm, array)
        on_root(comm, lambda step=step: step)
        time.sleep(0.02)
if comm.rank == 0:
    print("ok")
