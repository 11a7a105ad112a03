"""Arrays on a GPU in collectives: host memory in their place, copied in pieces beside the messages.

    host = stage(comm, array, PIECE_BYTES, reads)    copies to the host are under way from here on
    yield from ready(host[a:b])                      before these elements are read or written
    final(host[a:b])                                 they will not change: copy them to the GPU
    yield finish(host, writes)                       copies the rest of them, waits for all

In: flat contiguous arrays. `host` is a Staged, a NumPy array that knows which of its parts have
arrived; a view of it knows the same. Of a plain NumPy array everything is ready and nothing is to
be copied, so a collective is written once. What does not ask (`comm.isend`) waits by `settled`.

Copies run on a stream of their own, one a communicator, once the kernels queued so far are done,
and a rank that waits for one does so by a Request, as for a message. With copies of bandwidth c
beside messages of bandwidth b, n bytes take about n / min(b, c) and two pieces' copies, not
n / b + 2 n / c. Host memory is pinned, as asynchronous copies need, and n bytes long; CuPy's pool
keeps it for the next array of that length.

Written from CuPy's documentation and tested on a stand-in: not run on a GPU yet.
"""

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from minillm.device import Array, to_device, xp_of

_streams: WeakKeyDictionary[Hashable, Any] = WeakKeyDictionary()


class Copied:
    """Copies of a stream up to this point: a Request."""

    def __init__(self, cuda: Any, stream: Any):
        self.event = cuda.Event(block=True, disable_timing=True)
        self.event.record(stream)

    def test(self) -> bool:
        return self.event.done

    def wait(self) -> None:
        self.event.synchronize()


class Staged(np.ndarray):
    """Host memory in the place of an array on a GPU.

    Attributes:
        copies: those into and out of it, shared by all its views.
    """

    copies: "_Copies"

    def __array_finalize__(self, source: object) -> None:
        self.copies = getattr(source, "copies", None)


class _Copies:
    """Between an array on a GPU and its host memory; places are counted in bytes."""

    def __init__(self, array: Array, cuda: Any, stream: Any):
        self.device, self.cuda, self.stream = array, cuda, stream
        memory = cuda.alloc_pinned_memory(array.nbytes)
        self.host = np.frombuffer(memory, np.uint8, array.nbytes).view(array.dtype)
        self.starts: list[int] = []  # of the pieces, ascending
        self.arriving: list[Copied | None] = []  # by piece; None once it was asked for
        self.out: list[tuple[int, int]] = []  # copied back

    def place(self, part: np.ndarray) -> tuple[int, int]:
        start = part.ctypes.data - self.host.ctypes.data
        return start, start + part.nbytes

    def copy(self, start: int, stop: int, to_host: bool) -> None:
        """Queue the copy of these bytes."""
        span = slice(start // self.host.itemsize, stop // self.host.itemsize)
        if to_host:
            self.device[span].get(stream=self.stream, out=self.host[span], blocking=False)
        else:
            self.device[span].set(self.host[span], stream=self.stream)
            self.out.append((start, stop))


def stage(comm: Any, array: Array, piece_bytes: int, reads: slice) -> Staged:
    """Host memory for `array` (n,), n > 0, on a GPU; of it the elements `reads` are on their way.

    They come in the order in which the ring (ring.py) takes them: from chunk rank - 1 backwards.
    """
    cuda = xp_of(array).cuda
    if comm not in _streams:
        _streams[comm] = cuda.Stream(non_blocking=True)
    stream = _streams[comm]
    copies = _Copies(array, cuda, stream)
    made = cuda.Event(disable_timing=True)
    made.record()  # on the current stream, after the kernels that make the array
    stream.wait_event(made)
    n, size = array.size, array.itemsize
    pieces = comm.size * -(-array.nbytes // (comm.size * piece_bytes))
    if array.nbytes <= piece_bytes:
        pieces = 1  # a copy's start costs more than such a copy
    bounds = [i * n // pieces for i in range(pieces + 1)]
    copies.starts = [start * size for start in bounds[:-1]]
    copies.arriving = [None] * pieces
    per_chunk = pieces // comm.size or 1
    for i in range(pieces):
        step, piece = divmod(i, per_chunk)
        at = ((comm.rank - 1 - step) * per_chunk + piece) % pieces
        start, stop = max(bounds[at], reads.start), min(bounds[at + 1], reads.stop)
        if start < stop:
            copies.copy(start * size, stop * size, to_host=True)
            copies.arriving[at] = Copied(cuda, stream)
    host = copies.host.view(Staged)
    host.copies = copies
    return host


def ready(part: Array) -> Sequence[Copied]:
    """What to wait for before `part` is read or written."""
    if type(part) is not Staged or part.size == 0:
        return ()
    copies = part.copies
    start, stop = copies.place(part)
    waits = []
    for i in range(bisect_right(copies.starts, start) - 1, len(copies.starts)):
        if copies.starts[i] >= stop:
            break
        if (copied := copies.arriving[i]) is not None:
            waits.append(copied)
            copies.arriving[i] = None
    return waits


def final(part: Array) -> None:
    """Start copying `part` to the GPU: nothing changes it any more."""
    if type(part) is Staged and part.size:
        part.copies.copy(*part.copies.place(part), to_host=False)


def finish(host: Staged, writes: slice) -> Copied:
    """Start what is missing of the copies of the elements `writes`; what to wait for then.

    This rank itself waits, not just its stream: the memory is free for the next array, and any
    stream may read the result.
    """
    copies, size = host.copies, host.itemsize
    at, end = writes.start * size, writes.stop * size
    for start, stop in [*sorted(copies.out), (end, end)]:
        if at < min(start, end):
            copies.copy(at, min(start, end), to_host=False)
        at = max(at, stop)
    return Copied(copies.cuda, copies.stream)


def settled(part: Array) -> np.ndarray:
    """The values of an array on a GPU, or of staged memory once they are there, as NumPy's own."""
    for copied in ready(part):
        copied.wait()
    return np.asarray(to_device(part, "cpu"))
