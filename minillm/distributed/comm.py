"""Messages between ranks: all that the collectives of this package stand on.

A Communicator moves flat contiguous arrays as bytes, so that every dtype travels alike. An
implementation supplies `_isend`, `_irecv` and `abort`; the rest is written once, on top of them:

    MPICommunicator     a process a rank, started by mpirun (mpi.py); mpi4py is imported here alone
    SingleProcess       one rank: nobody to talk to
    ThreadCommunicator  a thread a rank, for tests and tutorials (threads.py)
    Group               some of the ranks of another one, counted anew (group.py)

`world()` picks between the first two. Arrays on a GPU pass through host memory, message by message,
unless MPI is GPU-aware.
"""

import atexit
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable
from functools import cache, cached_property
from pathlib import Path
from sys import executable
from typing import Protocol

import numpy as np

from minillm.device import Array, synchronize, xp_of
from minillm.distributed import failure, staging
from minillm.distributed.flight import Flight
from minillm.distributed.steps import Collective, Steps
from minillm.errors import UserError

TAGS = 4096  # of a communicator; each split of it (group.py) has as many of its own
BARRIER_TAG, LEFT_TAG = TAGS - 2, TAGS - 1  # callers use those below: steps.py refuses others


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
        host_of: by rank, a number that ranks sharing memory have in common.
        most_tag: the largest tag that messages may carry.
        tags: collectives take those below this.
        tags_taken: those of collectives that have begun and not ended; of those without, the name.
        gpu_aware: whether messages take arrays on a GPU as they are (mpi.py).
        layout: how many ranks and hosts, in words.
        tables: which all-reduce is the fastest, by layout, where that was measured (tuning.py).
        kept: exchanges that collectives keep for their next call (doubling.py).
        contexts: how many splits this rank has been part of (group.py).
        flight: this rank's collectives, shared with its groups (flight.py).
        label: which ranks of the run these are and in which context; "" for all of them.
    """

    most_tag = 2**31 - 1
    tags = BARRIER_TAG
    gpu_aware = False

    def __init__(self, rank: int, size: int):
        self.rank, self.size, self.bytes_sent = rank, size, 0
        self.host_of = [0] * size
        self.tables: dict[str, list[tuple[float, str]]] = {}
        self.kept: dict[Hashable, tuple] = {}
        self.contexts = 0
        self.flight, self.label = Flight(), ""
        self.tags_taken: set[int | str] = set()

    @cached_property
    def layout(self) -> str:
        return f"{self.size} ranks on {len(set(self.host_of))} hosts"

    def isend(self, array: Array, dest: int, tag: int = 0) -> Request:
        """Start sending a flat contiguous array to rank `dest`."""
        data = self._bytes(array, dest)
        self.bytes_sent += data.nbytes
        if type(data) is not np.ndarray:
            data = self._sendable(data)
        return self._isend(data, dest, tag)

    def irecv(self, array: Array, source: int, tag: int = 0) -> Request:
        """Start receiving into a flat contiguous array, as long as what `source` sends."""
        data = self._bytes(array, source)
        if type(data) is np.ndarray:
            return self._irecv(data, source, tag)
        if isinstance(data, np.ndarray) or self.gpu_aware:
            return self._irecv(self._sendable(data), source, tag)
        host = np.empty(data.size, np.uint8)
        return _ToDevice(self._irecv(host, source, tag), host, data)

    def exchange(self, nbytes: int, peer: int, tag: int = 0) -> "Exchange":
        """For small messages both ways between this rank and `peer`, again and again."""
        return Exchange(self, nbytes, peer, tag)

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

    @Collective
    def barrier(self) -> Steps[None]:
        """Return once every rank has come here: in round k = 0, 1, ... < log2(size), each tells the
        rank 2^k ahead and hears from the rank 2^k behind (Hensgen, Finkel & Manber 1988)."""
        word, distance = np.zeros(1, np.uint8), 1
        while distance < self.size:
            ahead, behind = (self.rank + distance) % self.size, (self.rank - distance) % self.size
            receive = self.irecv(np.empty(1, np.uint8), behind, BARRIER_TAG)
            yield self.isend(word, ahead, BARRIER_TAG)
            yield receive
            distance *= 2

    def _bytes(self, array: Array, peer: int) -> Array:
        if not 0 <= peer < self.size or peer == self.rank:
            raise ValueError(f"rank {self.rank} of {self.size} has no other rank {peer}")
        if array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(f"a message is a flat contiguous array, not one of {array.shape}")
        return array.view(np.uint8 if type(array) is np.ndarray else xp_of(array).uint8)

    def _sendable(self, data: Array) -> Array:
        """An array on a GPU, or host memory in its place (staging.py), as MPI takes it."""
        if self.gpu_aware and not isinstance(data, np.ndarray):
            synchronize("cuda")  # MPI knows nothing of kernels that have yet to write or read it
            return data
        return staging.settled(data)

    @abstractmethod
    def _isend(self, data: np.ndarray, dest: int, tag: int) -> Request: ...

    @abstractmethod
    def _irecv(self, data: np.ndarray, source: int, tag: int) -> Request: ...

    @abstractmethod
    def abort(self, code: int = 1) -> None:
        """Take all ranks down at once."""

    def mpi_all_reduce(self, array: np.ndarray, ufunc: np.ufunc) -> None:
        """MPI's own, in place: what ours are compared with. Add, maximum or minimum."""
        raise UserError("algorithm 'mpi' needs the ranks of a run under mpirun, all of them")


class Exchange:
    """A message to a peer and one from it, as long, in buffers that stay: a Request.

        exchange.out[...] = what to send
        exchange.start().wait()          # or: yield exchange.start()
        use(exchange.into)

    Attributes:
        out, into: (nbytes,) bytes; neither is to be touched while the messages are under way.
    """

    def __init__(self, comm: Communicator, nbytes: int, peer: int, tag: int):
        self.comm, self.peer, self.tag = comm, peer, tag
        # A line apart: where both began at the same place of a page, stores would hold up loads.
        room = np.empty(2 * nbytes + 192, np.uint8)
        first = -room.ctypes.data % 64
        second = first + -(-nbytes // 64) * 64 + 64
        self.out, self.into = room[first : first + nbytes], room[second : second + nbytes]
        self._under_way: tuple[Request, ...] = ()

    def start(self) -> "Exchange":
        """Post both messages."""
        comm = self.comm
        receive = comm.irecv(self.into, self.peer, self.tag)
        self._under_way = receive, comm.isend(self.out, self.peer, self.tag)
        return self

    def test(self) -> bool:
        return all(request.test() for request in self._under_way)

    def wait(self) -> None:
        for request in self._under_way:
            request.wait()

    def free(self) -> None:
        """Give up what the runtime keeps for it; it is not to be started again."""


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

    def __init__(self) -> None:
        super().__init__(0, 1)

    def _isend(self, data: np.ndarray, dest: int, tag: int) -> Request:
        raise AssertionError("unreachable: isend knows no other rank")

    def _irecv(self, data: np.ndarray, source: int, tag: int) -> Request:
        raise AssertionError("unreachable: irecv knows no other rank")

    def abort(self, code: int = 1) -> None:
        os._exit(code)


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
    from minillm.distributed.mpi import MPICommunicator

    comm = MPICommunicator(MPI)
    if comm.size != size:
        raise UserError(
            f"the launcher started {size} processes, but mpi4py's MPI library sees {comm.size}:"
            f" they do not belong together; {fix}"
        )
    failure.install(comm.rank, comm.size, comm.abort, comm.flight)
    atexit.register(comm.leave)
    return comm
