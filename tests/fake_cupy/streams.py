"""The stand-in's streams, events and pinned memory: what is queued on a stream happens late.

The current stream is always done. On another one, queued work happens when the program waits for
it, or for a later event of that stream, or, one piece at a time, when it asks whether it is done:
a program that reads without waiting reads what was there before. Copies that are to run beside the
program must use pinned memory, and memory that is given back must not be in use.
"""

import weakref
from collections import deque

import numpy as np

from tests.fake_cupy.array import wait


class Pinned(bytearray):
    """cupy.cuda.PinnedMemoryPointer: a block of a multiple of 512 bytes, with anything in it."""

    def __init__(self, size: int):
        super().__init__(b"\xa5" * (-(-size // 512) * 512))


def alloc_pinned_memory(size):
    return Pinned(size)


def _found(host: np.ndarray) -> "tuple[weakref.ref[Pinned], int]":
    """The pinned block that `host` is in, not kept alive, and where it begins there."""
    base = host
    while isinstance(base, np.ndarray | memoryview):
        base = base.obj if isinstance(base, memoryview) else base.base
    if not isinstance(base, Pinned):
        raise AssertionError("copies beside the program are from and to pinned memory only")
    return weakref.ref(base), host.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data


class Stream:
    """cupy.cuda.Stream. What is `queue`d has yet to happen; `log` is of all that ever was."""

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.ptr = 0
        self.late = not null
        self.queue: deque = deque()
        self.log: list[str] = []

    def add(self, what: str, work) -> None:
        self.log.append(what)
        self.queue.append(work)
        if not self.late:
            self.run()

    def copy(self, what: str, host: np.ndarray, memory: np.ndarray) -> None:
        """Queue "get", to the memory `host` of the host, or "set", from it."""
        block, at = _found(host)
        dtype, size = host.dtype, host.size

        def work() -> None:
            if block() is None:
                raise AssertionError(f"{what}: its host memory was given back before it ran")
            there = np.frombuffer(block(), np.uint8)[at : at + size * dtype.itemsize].view(dtype)
            into, source = (there, memory) if what == "get" else (memory, there)
            into[...] = source.reshape(into.shape)

        self.add(what, work)

    def run(self, most: int | None = None) -> None:
        while self.queue and most != 0:
            self.queue.popleft()()
            most = None if most is None else most - 1

    @property
    def done(self):
        self.run(1)
        return not self.queue

    def synchronize(self):
        wait()
        self.run()

    def wait_event(self, event):
        self.add("wait", event.happen)

    def record(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event


CURRENT = Stream(null=True)


class Event:
    """cupy.cuda.Event."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.stream, self.happened = None, True  # CUDA's answer for one that was never recorded

    def record(self, stream=None):
        self.stream, self.happened = CURRENT if stream is None else stream, False
        self.stream.add("event", self._mark)

    def _mark(self):
        self.happened = True

    def happen(self):
        while not self.happened:
            self.stream.run(1)

    @property
    def done(self):
        if not self.happened:
            self.stream.run(1)
        return self.happened

    def synchronize(self):
        self.happen()
