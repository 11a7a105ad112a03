"""train.py, killed without notice once it has done the given number of steps."""

import os
import signal
import sys

import train
from minillm.distributed import world

limit, done = int(sys.argv[1]), 0
clip = train.clip_grad_norm


def clip_and_count(*args):
    global done
    done += 1
    if done > limit:
        os.kill(os.getpid(), signal.SIGKILL)
    return clip(*args)


train.clip_grad_norm = clip_and_count
train.main(world(), sys.argv[2:])
