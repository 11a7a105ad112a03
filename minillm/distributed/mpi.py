"""The ranks that mpirun started: messages through mpi4py, waiting that leaves the core to others.

In: the module `mpi4py.MPI`. Out: a Communicator. comm.py imports mpi4py and makes it, in `world`.
With MINILLM_GPU_AWARE_MPI=1 messages take arrays on a GPU as they are, once that is proven to work.
"""

import ctypes
import os
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minillm.device import module
from minillm.distributed import failure, tuning
from minillm.distributed.comm import LEFT_TAG, Communicator, Exchange
from minillm.errors import UserError


class MPICommunicator(Communicator):
    """All ranks of this run. `mpi` is the module `mpi4py.MPI`; making it is a collective.

    Attributes:
        looks: how often to look for a message before giving way, some 50 microseconds: a message
            of a rank that runs is there by then. None where ranks share cores.
    """

    def __init__(self, mpi: Any):
        self._mpi, self._world = mpi, mpi.COMM_WORLD
        super().__init__(self._world.Get_rank(), self._world.Get_size())
        self.most_tag = self._world.Get_attr(mpi.TAG_UB)
        neighbours = self._world.Split_type(mpi.COMM_TYPE_SHARED)
        self.host_of = self._world.allgather(neighbours.allreduce(self.rank, mpi.MIN))
        neighbours.Free()
        local = self.host_of.count(self.host_of[self.rank])
        self.looks = 300 if local <= _cores() else 0
        self.tables = self._world.bcast(tuning.load() if self.rank == 0 else None)
        self._exchanges: weakref.WeakSet[_MPIExchange] = weakref.WeakSet()
        if os.environ.get("MINILLM_GPU_AWARE_MPI", "0") not in ("", "0"):
            prove_gpu_aware(self, mpi)

    def _isend(self, data: np.ndarray, dest: int, tag: int) -> "_MPIRequest":
        return _MPIRequest(self, self._world.Isend(data, dest, tag), dest, tag)

    def _irecv(self, data: np.ndarray, source: int, tag: int) -> "_MPIRequest":
        return _MPIRequest(self, self._world.Irecv(data, source, tag), source, tag)

    def exchange(self, nbytes: int, peer: int, tag: int = 0) -> Exchange:
        made = _MPIExchange(self, nbytes, peer, tag)
        self._exchanges.add(made)
        return made

    def mpi_all_reduce(self, array: np.ndarray, ufunc: np.ufunc) -> None:
        if array.dtype.kind not in "fi":
            raise UserError(f"algorithm 'mpi': MPI has no {array.dtype}; take another algorithm")
        if type(array) is not np.ndarray:
            array = self._sendable(array)
        mpi = self._mpi
        by_ufunc = {np.add: mpi.SUM, np.maximum: mpi.MAX, np.minimum: mpi.MIN}
        self.flight.blocked = None, time.perf_counter()
        self._world.Allreduce(mpi.IN_PLACE, array, by_ufunc[ufunc])
        self.flight.blocked = None

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
        requests = [self.irecv(words, rank, LEFT_TAG) for words, rank in zip(heard, others)]
        requests += [self.isend(last_words, rank, LEFT_TAG) for rank in others]
        while not all(request.test() for request in requests):
            time.sleep(1e-3)
        for words, rank in zip(heard, others):
            if self.rank == 0 and words.any() and (words != last_words).any():
                failure.say(f"rank {rank} of {self.size}: {_text(words)}")
        for exchange in list(self._exchanges):
            exchange.free()  # MPICH lists those it finds left over

    def has_left(self, peer: int) -> bool:
        """Whether rank `peer` is at its end and will send nothing more."""
        return self._world.Iprobe(peer, LEFT_TAG)

    def last_words(self, peer: int) -> str:
        """Why a rank left, if it failed."""
        words = np.empty(1024, np.uint8)
        self.recv(words, peer, LEFT_TAG)
        return _text(words)


def _text(words: np.ndarray) -> str:
    return words.tobytes().rstrip(b"\0").decode(errors="replace")


class _MPIRequest:
    """A message under way."""

    __slots__ = ("comm", "peer", "tag", "test")

    def __init__(self, comm: MPICommunicator, request: Any, peer: int, tag: int):
        self.comm, self.peer, self.tag, self.test = comm, peer, tag, request.Test

    def wait(self) -> None:
        if not self.test():
            _wait(self.comm, self.test, self.peer)


class _MPIExchange(Exchange):
    """On MPI's persistent requests: starting one costs a third of a send and a receive."""

    def __init__(self, comm: MPICommunicator, nbytes: int, peer: int, tag: int):
        super().__init__(comm, nbytes, peer, tag)
        self._receive = comm._world.Recv_init(self.into, peer, tag)
        self._send = comm._world.Send_init(self.out, peer, tag)
        self._start_receive, self._start_send = self._receive.Start, self._send.Start
        self._received, self._sent = self._receive.Test, self._send.Test
        self._nbytes = nbytes

    def start(self) -> Exchange:
        self._start_receive()
        self._start_send()
        self.comm.bytes_sent += self._nbytes
        return self

    def test(self) -> bool:
        return self._received() and self._sent()

    def wait(self) -> None:
        received, sent = self._received, self._sent
        if not received():
            _wait(self.comm, received, self.peer)
        if not sent():
            _wait(self.comm, sent, self.peer)

    def free(self) -> None:
        for request in (self._receive, self._send):
            if request:
                request.Free()


def prove_gpu_aware(comm: MPICommunicator, mpi: Any) -> None:
    """Let messages take arrays on a GPU as they are, if MPI can: MINILLM_GPU_AWARE_MPI=1.

    A library that cannot would read a GPU's address as one of the host, and crash. So it is asked
    first; then arrays of a known pattern go around the ranks, a short and a long one, as libraries
    send them in two ways. A collective. Not run on a GPU yet.

    Raises:
        UserError: on all ranks, if one has no GPU, or its MPI says no, or mixes up the pattern.
    """
    problem = ""
    try:
        xp = module("cuda")
        if not says_gpu_aware(mpi):
            problem = f"{mpi.Get_library_version().splitlines()[0].strip()} has no CUDA support"
    except UserError as error:
        problem = str(error)
    _refuse_gpu_aware(comm, problem)
    neighbour = comm.host_of[: comm.rank].count(comm.host_of[comm.rank])
    count, problem = xp.cuda.runtime.getDeviceCount(), ""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    comm.gpu_aware = True
    with xp.cuda.Device(neighbour % count):  # as take_gpu (gpus.py) will choose
        for n in (1 << 10, 1 << 22):
            mine, theirs = (xp.asarray((np.arange(n) * 7 + r) % 251) for r in (comm.rank, left))
            arrived = xp.zeros_like(mine)
            comm.sendrecv(mine, right, arrived, left)
            if not bool((arrived == theirs).all()):
                problem = f"{arrived.nbytes} bytes came from rank {left} with other values"
    _refuse_gpu_aware(comm, problem)


def says_gpu_aware(mpi: Any) -> bool:
    """What the MPI library that mpi4py has loaded answers when asked for CUDA support."""
    library = ctypes.CDLL(mpi.__file__)  # its symbols, and those of what it is linked with
    answer = ctypes.c_int(0)
    if hasattr(library, "MPIX_Query_cuda_support"):  # Open MPI, MPICH, MVAPICH
        answer.value = library.MPIX_Query_cuda_support()
    elif hasattr(library, "MPIX_GPU_query_support"):  # MPICH; 0 is for CUDA
        library.MPIX_GPU_query_support(0, ctypes.byref(answer))
    return answer.value == 1


def _refuse_gpu_aware(comm: MPICommunicator, problem: str) -> None:
    problems = comm._world.allgather(problem)
    rank = next((rank for rank, text in enumerate(problems) if text), None)
    if rank is not None:
        raise UserError(
            f"MINILLM_GPU_AWARE_MPI=1, but on rank {rank}: {problems[rank]}: unset it, or take an"
            " MPI built for CUDA"
        )


def _cores() -> int:
    """That this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def _wait(comm: MPICommunicator, test: Callable[[], bool], peer: int) -> None:
    """Until `test()`. MPI's own wait keeps a core busy that another rank may need."""
    for _ in range(comm.looks):
        if test():
            return
    give_way, began = os.sched_yield, time.perf_counter()
    give_way()
    look_after = 1.0  # seconds, until the peer is suspected to be gone
    gone = False
    while not test():
        waited = time.perf_counter() - began
        if waited < 1e-3:
            give_way()
            continue
        comm.flight.blocked = peer, began
        time.sleep(min(0.05 * waited, 2e-3))  # wakes at most 5 % late
        if waited < look_after:
            continue
        if gone:  # and what it had sent before has had time to arrive
            words = comm.last_words(peer)
            raise RuntimeError(
                f"rank {peer} has ended, rank {comm.rank} still waits for it"
                + (f". It said: {words}" if words else "")
            )
        gone = comm.has_left(peer)
        look_after += 0.5
    comm.flight.blocked = None
