"""Messages between ranks: all that the collectives of this package stand on.

A Communicator moves flat contiguous arrays as bytes, so that every dtype travels alike. An
implementation supplies `_isend`, `_irecv` and `abort`; the rest is written once, on top of them:

    MPICommunicator     a process a rank, started by mpirun; mpi4py is imported here alone
    SingleProcess       one rank: nobody to talk to
    ThreadCommunicator  a thread a rank, for tests and tutorials (threads.py)

`world()` picks between the first two. Arrays on a GPU pass through host memory, message by message.
"""

import atexit
import os
import time
import warnings
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from sys import executable
from typing import Any, Protocol

import numpy as np

from minillm.device import Array, to_device, xp_of
from minillm.distributed import failure
from minillm.errors import UserError

# Collectives and callers use the tags below these. MPI grants at least 32767.
_BARRIER_TAG, _LEFT_TAG = 32766, 32767


class Request(Protocol):
    """A message under way. Its array must be left alone until it is done."""

    def test(self) -> bool:
        """Whether it is done, without waiting."""

    def wait(self) -> None:
        """Return once it is done."""


class Communicator(ABC):
    """Messages among `size` ranks, of which this one is `rank`.

    Messages of one sender, receiver and tag arrive in the order they were sent. A send may wait for
    its receive, and does for large arrays: two ranks that both `send` before they `recv` wait for
    each other for ever; `sendrecv` is for that.

    Attributes:
        bytes_sent: how much this rank has sent so far.
    """

    rank: int
    size: int
    bytes_sent: int = 0

    def isend(self, array: Array, dest: int, tag: int = 0) -> Request:
        """Start sending a flat contiguous array to rank `dest`."""
        data = self._bytes(array, dest)
        self.bytes_sent += data.nbytes
        return self._isend(to_device(data, "cpu"), dest, tag)

    def irecv(self, array: Array, source: int, tag: int = 0) -> Request:
        """Start receiving into a flat contiguous array, as long as what `source` sends."""
        data = self._bytes(array, source)
        if isinstance(data, np.ndarray):
            return self._irecv(data, source, tag)
        host = np.empty(data.size, np.uint8)
        return _ToDevice(self._irecv(host, source, tag), host, data)

    def send(self, array: Array, dest: int, tag: int = 0) -> None:
        """Send; return once `array` may be changed again."""
        self.isend(array, dest, tag).wait()

    def recv(self, array: Array, source: int, tag: int = 0) -> None:
        """Receive into `array`."""
        self.irecv(array, source, tag).wait()

    def sendrecv(self, array: Array, dest: int, into: Array, source: int, tag: int = 0) -> None:
        """Send `array` to `dest` while receiving `into` from `source`: safe around a ring."""
        receive = self.irecv(into, source, tag)
        self.send(array, dest, tag)
        receive.wait()

    def barrier(self) -> None:
        """Return once every rank has come here: in round k = 0, 1, ... < log2(size), each tells the
        rank 2^k ahead and hears from the rank 2^k behind (Hensgen, Finkel & Manber 1988)."""
        word, distance = np.zeros(1, np.uint8), 1
        while distance < self.size:
            ahead, behind = (self.rank + distance) % self.size, (self.rank - distance) % self.size
            self.sendrecv(word, ahead, np.empty(1, np.uint8), behind, _BARRIER_TAG)
            distance *= 2

    def _bytes(self, array: Array, peer: int) -> Array:
        if not 0 <= peer < self.size or peer == self.rank:
            raise ValueError(f"rank {self.rank} of {self.size} has no other rank {peer}")
        if array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(f"a message is a flat contiguous array, not one of {array.shape}")
        return array.view(xp_of(array).uint8)

    @abstractmethod
    def _isend(self, data: np.ndarray, dest: int, tag: int) -> Request: ...

    @abstractmethod
    def _irecv(self, data: np.ndarray, source: int, tag: int) -> Request: ...

    @abstractmethod
    def abort(self, code: int = 1) -> None:
        """Take all ranks down at once."""


class _ToDevice:
    """A receive into host memory, copied to the GPU when it is done."""

    def __init__(self, request: Request, host: np.ndarray, target: Array):
        self.request, self.host, self.target = request, host, target

    def test(self) -> bool:
        if self.target is not None and self.request.test():
            self.target.set(self.host)
            self.target = None
        return self.target is None

    def wait(self) -> None:
        self.request.wait()
        self.test()


class SingleProcess(Communicator):
    """The only rank."""

    rank, size = 0, 1

    def _isend(self, data: np.ndarray, dest: int, tag: int) -> Request:
        raise AssertionError("unreachable: isend knows no other rank")

    def _irecv(self, data: np.ndarray, source: int, tag: int) -> Request:
        raise AssertionError("unreachable: irecv knows no other rank")

    def abort(self, code: int = 1) -> None:
        os._exit(code)


class MPICommunicator(Communicator):
    """The ranks that mpirun started. `mpi` is the module `mpi4py.MPI`."""

    def __init__(self, mpi: Any):
        self._mpi, self._world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()

    def _isend(self, data: np.ndarray, dest: int, tag: int) -> Request:
        return _MPIRequest(self, self._world.Isend((data, self._mpi.BYTE), dest, tag), dest)

    def _irecv(self, data: np.ndarray, source: int, tag: int) -> Request:
        return _MPIRequest(self, self._world.Irecv((data, self._mpi.BYTE), source, tag), source)

    def abort(self, code: int = 1) -> None:
        self._world.Abort(code)
        os._exit(code)  # MPICH's Abort can return, when mpirun is ending the run already

    def leave(self) -> None:
        """Tell all ranks that this one ends and why, and wait until all end.

        For the interpreter's exit. Ranks that still wait for one that left find out (`has_left`).
        Rank 0 has printed its own reason and prints those that differ from it.
        """
        last_words = np.zeros(1024, np.uint8)
        text = np.frombuffer(failure.reason().encode()[: last_words.size], np.uint8)
        last_words[: text.size] = text
        others = [rank for rank in range(self.size) if rank != self.rank]
        heard = [np.empty_like(last_words) for _ in others]
        requests = [self.irecv(words, rank, _LEFT_TAG) for words, rank in zip(heard, others)]
        requests += [self.isend(last_words, rank, _LEFT_TAG) for rank in others]
        while not all(request.test() for request in requests):
            time.sleep(1e-3)
        for words, rank in zip(heard, others):
            if self.rank == 0 and words.any() and (words != last_words).any():
                failure.say(f"rank {rank} of {self.size}: {_text(words)}")

    def has_left(self, peer: int) -> bool:
        """Whether rank `peer` is at its end and will send nothing more."""
        return self._world.Iprobe(peer, _LEFT_TAG)

    def last_words(self, peer: int) -> str:
        """Why a rank left, if it failed."""
        words = np.empty(1024, np.uint8)
        self.recv(words, peer, _LEFT_TAG)
        return _text(words)


def _text(words: np.ndarray) -> str:
    return words.tobytes().rstrip(b"\0").decode(errors="replace")


class _MPIRequest:
    """Waits politely: MPI's own wait keeps a core busy that another rank may need."""

    __slots__ = ("comm", "peer", "test")

    def __init__(self, comm: MPICommunicator, request: Any, peer: int):
        self.comm, self.peer, self.test = comm, peer, request.Test

    def wait(self) -> None:
        began = time.perf_counter()
        look_after = 1.0  # seconds, until the peer is suspected to be gone
        gone = False
        while not self.test():
            waited = time.perf_counter() - began
            if waited < 1e-3:
                os.sched_yield()
                continue
            time.sleep(min(0.05 * waited, 2e-3))  # wakes at most 5 % late
            if waited < look_after:
                continue
            if gone:  # and what it had sent before has had time to arrive
                words = self.comm.last_words(self.peer)
                raise RuntimeError(
                    f"rank {self.peer} has ended, rank {self.comm.rank} still waits for it"
                    + (f". It said: {words}" if words else "")
                )
            gone = self.comm.has_left(self.peer)
            look_after += 0.5


# --- which communicator ---------------------------------------------------------------------------

# Set by launchers: how many ranks there are, and which of them this process is.
_LAUNCHERS = {
    "PMI_SIZE": "PMI_RANK",  # MPICH, Intel MPI, Slurm's pmi2
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
    "SLURM_STEP_NUM_TASKS": "SLURM_PROCID",
}


def _launched() -> tuple[int, int]:
    """Rank and size as the launcher announced them; (0, 1) without one."""
    for size, rank in _LAUNCHERS.items():
        if os.environ.get(size, "").isdigit():
            return int(os.environ.get(rank) or 0), int(os.environ[size])
    return 0, 1


@cache
def world() -> Communicator:
    """All ranks of this run: those that mpirun started, or this process alone.

    Call it first. It also sees to it that failures end the run (failure.py): from then on, an
    uncaught UserError is one line and exit code 2, and any other error of one rank ends all.

    Raises:
        UserError: started by a launcher, but mpi4py is missing, or its MPI is not the launcher's.
    """
    rank, size = _launched()
    failure.install(rank, size, os._exit)  # MPI, which aborts all ranks, is not there yet
    if size == 1:
        return SingleProcess()
    mpirun = Path(executable).with_name("mpirun")
    fix = f"use {mpirun}" if mpirun.exists() else "pip install mpi4py mpich, and use its mpirun"
    try:
        with warnings.catch_warnings():  # mpi4py's own about a foreign launcher: see below
            warnings.simplefilter("ignore", RuntimeWarning)
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"started as {size} processes, but mpi4py does not load ({error}): {fix}"
        ) from None
    comm = MPICommunicator(MPI)
    if comm.size != size:
        raise UserError(
            f"the launcher started {size} processes, but mpi4py's MPI library sees {comm.size}:"
            f" they do not belong together; {fix}"
        )
    failure.install(comm.rank, comm.size, comm.abort)
    atexit.register(comm.leave)
    return comm
