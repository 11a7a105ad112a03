"""How far the clocks of other ranks are ahead of rank 0's, and how well that is known.

Rank 0 asks each rank for the time, again and again, and notes when it asked, t0, and when it had
the answer, t1. The answer was given somewhere between, so read at (t0 + t1) / 2 it is

    offset = answer - (t0 + t1) / 2,   wrong by at most (t1 - t0) / 2

whatever the network does; the quickest answer bounds it best (Cristian 1989, "Probabilistic clock
synchronization"). Clocks of two machines also drift apart, by some 10 us a second: measured at the
beginning and at the end of a run, the offset between is taken from a straight line.

On one Linux machine `time.perf_counter` is one clock for all processes. An offset that is there
within its error of zero is taken for the zero that it is.
"""

import time
from dataclasses import dataclass

import numpy as np

from minillm.distributed.comm import Communicator
from minillm.distributed.tree import broadcast

QUESTIONS = 40  # to each rank


@dataclass(frozen=True)
class Offsets:
    """By rank, in seconds.

    Attributes:
        at: when they were measured, by rank 0's `time.perf_counter()`.
        ahead: of rank 0's clock.
        error: the offset is wrong by at most this.
    """

    at: float
    ahead: list[float]
    error: list[float]


def measure_offsets(comm: Communicator, tag: int = 0) -> Offsets:
    """Ask every rank for the time: a collective, for a moment in which nothing else is under way.
    All ranks get the same answer."""
    result = np.zeros((3, comm.size))
    word, answer = np.zeros(1, np.uint8), np.empty(1)
    if comm.rank == 0:
        for rank in range(1, comm.size):
            best = np.inf
            for _ in range(QUESTIONS):
                began = time.perf_counter()
                comm.send(word, rank, tag)
                comm.recv(answer, rank, tag)
                ended = time.perf_counter()
                if ended - began < best:
                    best = ended - began
                    offset, error = float(answer[0]) - (began + ended) / 2, best / 2
            if comm.host_of[rank] == comm.host_of[0] and abs(offset) <= error:
                offset = 0.0
            result[1, rank], result[2, rank] = offset, error
        result[0] = time.perf_counter()
    else:
        for _ in range(QUESTIONS):
            comm.recv(word, 0, tag)
            answer[0] = time.perf_counter()
            comm.send(answer, 0, tag)
    broadcast(comm, result.reshape(-1), 0, tag)
    return Offsets(float(result[0, 0]), result[1].tolist(), result[2].tolist())


def to_rank_0(rank: int, first: Offsets, last: Offsets, seconds: float) -> float:
    """A time of `rank`'s clock, as rank 0's showed it; from offsets before it and after it.

    seconds = t + ahead + drift (t - at), solved for t.
    """
    drift = (last.ahead[rank] - first.ahead[rank]) / (last.at - first.at)
    return (seconds - first.ahead[rank] + drift * first.at) / (1 + drift)
