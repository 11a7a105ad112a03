"""Every message of a rank, noted: to and from whom, how many bytes of what, from when to when.

    comm = Messages(world())       a communicator like any other, in the place of the other
    comm.recording = True
    all_reduce(comm, array)
    comm.noted                     this rank's messages, in the order they were posted
    pairs(gather(comm, comm.noted))        on rank 0: which send is which receive

In: a communicator. Out: the same one, with a list. A run that does not trace does not make one and
pays nothing; one that has stopped recording pays a look at `recording`, 0.1 us a message.

When a message is done is known to its rank only when it looks: by a wait, to the microsecond; by a
test between two other things, late. So a receive's end is when its data were seen, and a send's
when its array was known to be free again.
"""

import pickle
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np

from minillm.device import Array
from minillm.distributed.comm import Communicator, Exchange, Request

T = TypeVar("T")


@dataclass(slots=True)
class Message:
    """One end of a message, as the rank there saw it. Times are `time.perf_counter()` seconds.

    Attributes:
        sends: whether this rank sent it.
        peer: the other rank, as the whole run counts them.
        tag: with the context of a group in it (group.py).
        nbytes: its length.
        address: of its array in this rank's memory.
        began: when it was posted.
        ended: when this rank knew it to be done; None if it never looked.
        waited: since when the rank did nothing but wait for it; None if it did not have to.
        used: until when the rank worked before its next call here: on what has just come, if it
            was in a collective; None if nothing followed.
    """

    sends: bool
    peer: int
    tag: int
    nbytes: int
    address: int
    began: float
    ended: float | None = None
    waited: float | None = None
    used: float | None = None


class Messages(Communicator):
    """`parent`, with a note of every message while `recording`.

    Groups made of it send through it, so theirs are noted too. All else is the parent's.

    Attributes:
        noted: the messages of this rank.
        last: when its latest call here returned: what the main thread does next begins then.
    """

    def __init__(self, parent: Communicator):
        # Not super().__init__: what is not set here is looked up in the parent, and so is the same.
        self.parent = parent
        self.most_tag, self.gpu_aware = parent.most_tag, parent.gpu_aware
        self.kept = {}  # the parent's exchanges would not be noted
        self.recording = False
        self.noted: list[Message] = []
        self.last = 0.0
        self._used: Message | None = None  # what has just come, until the next call

    def __getattr__(self, name: str) -> object:
        if name == "parent":  # of a copy that is not made yet
            raise AttributeError(name)
        return getattr(self.parent, name)

    def isend(self, array: Array, dest: int, tag: int = 0) -> Request:
        if not self.recording:
            return self.parent.isend(array, dest, tag)
        message = self._note(True, dest, tag, array)
        request = self.parent.isend(array, dest, tag)
        self.last = perf_counter()
        return _Noted(self, request, (message,))

    def irecv(self, array: Array, source: int, tag: int = 0) -> Request:
        if not self.recording:
            return self.parent.irecv(array, source, tag)
        message = self._note(False, source, tag, array)
        request = self.parent.irecv(array, source, tag)
        self.last = perf_counter()
        return _Noted(self, request, (message,))

    def exchange(self, nbytes: int, peer: int, tag: int = 0) -> Exchange:
        return _NotedExchange(self, self.parent.exchange(nbytes, peer, tag), peer, tag)

    def _note(self, sends: bool, peer: int, tag: int, array: Array) -> Message:
        now = self._called()
        data = getattr(array, "__array_interface__", None)  # an array on a GPU has none
        address = data["data"][0] if data else array.data.ptr
        message = Message(sends, peer, tag, array.nbytes, address, now)
        self.noted.append(message)
        return message

    def _called(self) -> float:
        """The time, at the beginning of each call: what the rank did with what came is over."""
        now = perf_counter()
        if self._used is not None:
            self._used.used, self._used = now, None
        return now

    def _isend(self, data: np.ndarray, dest: int, tag: int) -> Request:
        return self.parent._isend(data, dest, tag)

    def _irecv(self, data: np.ndarray, source: int, tag: int) -> Request:
        return self.parent._irecv(data, source, tag)

    def abort(self, code: int = 1) -> None:
        self.parent.abort(code)

    def mpi_all_reduce(self, array: np.ndarray, ufunc: np.ufunc) -> None:
        self.parent.mpi_all_reduce(array, ufunc)


class _Noted:
    """A request whose messages are noted as done by who finds it so."""

    def __init__(self, comm: Messages, request: Request, messages: Sequence[Message]):
        self.comm, self.request, self.messages = comm, request, messages
        self.peer, self.tag = (messages[0].peer, messages[0].tag) if messages else (None, None)

    def test(self) -> bool:
        self.comm._called()
        done = self.request.test()
        self._looked(done)
        return done

    def wait(self) -> None:
        began = self.comm._called()
        if not self.request.test():
            for message in self.messages:
                if message.ended is None:
                    message.waited = began
            self.request.wait()
        self._looked(True)

    def _looked(self, done: bool) -> None:
        self.comm.last = now = perf_counter()
        if done:
            for message in self.messages:
                if message.ended is None:
                    message.ended = now
                    if not message.sends:
                        self.comm._used = message


class _NotedExchange(_Noted, Exchange):
    """An exchange, each start of which is two messages."""

    def __init__(self, comm: Messages, exchange: Exchange, peer: int, tag: int):
        super().__init__(comm, exchange, ())
        self.exchange, self.peer, self.tag = exchange, peer, tag
        self.out, self.into = exchange.out, exchange.into

    def start(self) -> Exchange:
        comm = self.comm
        self.messages = ()
        if comm.recording:
            receive = comm._note(False, self.peer, self.tag, self.into)
            self.messages = receive, comm._note(True, self.peer, self.tag, self.out)
        self.exchange.start()
        comm.last = perf_counter()
        return self

    def free(self) -> None:
        self.exchange.free()

    def __del__(self) -> None:
        self.free()  # a traced run can be over before its program is


def pairs(noted: Sequence[Sequence[Message]]) -> list[tuple[int, Message, int, Message]]:
    """Which send is which receive: (source, send, destination, receive), by the time of the send.

    Messages of one source, destination and tag arrive in the order they were sent, so the k-th is
    the k-th. Those whose other end is not among the `noted`, by rank, are left out.

    Raises:
        ValueError: a message has another length where it arrives: the notes do not fit together.
    """
    sent: dict[tuple, deque[Message]] = defaultdict(deque)
    for rank, messages in enumerate(noted):
        for message in messages:
            if message.sends:
                sent[rank, message.peer, message.tag].append(message)
    found = []
    for rank, messages in enumerate(noted):
        for message in messages:
            waiting = sent[message.peer, rank, message.tag]
            if message.sends or not waiting:
                continue
            send = waiting.popleft()
            if send.nbytes != message.nbytes:
                raise ValueError(
                    f"rank {message.peer} sends {send.nbytes} bytes, rank {rank} receives"
                    f" {message.nbytes} (tag {message.tag}): messages are missing"
                )
            found.append((message.peer, send, rank, message))
    return sorted(found, key=lambda pair: pair[1].began)


def gather(comm: Communicator, value: T, tag: int = 0) -> list[T]:
    """The values of all ranks, by rank, on rank 0; an empty list on the others. Pickled."""
    if comm.rank:
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        comm.send(np.array([data.size], np.int64), 0, tag)
        comm.send(data, 0, tag)
        return []
    values = [value]
    for rank in range(1, comm.size):
        size = np.empty(1, np.int64)
        comm.recv(size, rank, tag)
        data = np.empty(int(size[0]), np.uint8)
        comm.recv(data, rank, tag)
        values.append(pickle.loads(data.tobytes()))
    return values
