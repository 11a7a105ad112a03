"""The flight recorder: which collectives this rank has begun, and for whom it waits.

    comm.flight.calls[-1]        the latest: all_reduce #17 of (4096,) float32, train.py:113 main
    comm.flight.under_way()      those that have begun and not ended
    comm.flight.blocked          (rank, since) while this rank has nothing to do but wait for it

Every collective passes through `steps.Collective`, which notes it here as it begins and as it ends.
A rank's communicator and all groups of it share one Flight; each of them counts its own collectives
from 1, so that the same number means the same collective on all of its ranks, if they agree. Where
they do not, the watchdog (watchdog.py) says so. Cost: 2.2 us a collective (the best of 3000 times,
on a core that others shared).
"""

import os
from collections import deque
from sys import _getframe
from time import perf_counter
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minillm.distributed.comm import Communicator

KEPT = 256  # calls; a trace replaces `calls` by a deque without a limit

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Frames passed over on the way to who called: this package, the next, the engine that calls them.
_PLUMBING = tuple(
    os.path.join(_PACKAGE, name)
    for name in ("distributed" + os.sep, "parallel" + os.sep, "autograd.py", "tensor")
)


class Call:
    """One collective of this rank.

    Attributes:
        comm: among whose ranks.
        number: of this collective among those of `comm`, from 1.
        name: "all_reduce".
        shape, dtype: of the array; dtype is None without one.
        tag: of its messages.
        began, ended: `time.perf_counter()` seconds; ended is None while it is under way.
        blocking: whether the main thread does nothing else until it has ended.
    """

    __slots__ = (
        "_code", "_lasti", "began", "blocking", "comm", "dtype", "ended", "name", "number", "shape",
        "tag",
    )  # fmt: skip

    comm: "Communicator"
    number: int
    name: str
    shape: tuple[int, ...]
    dtype: "np.dtype | None"
    tag: int
    blocking: bool
    began: float
    ended: float | None

    @property
    def context(self) -> int:
        """0 for all ranks of the run, else the context of the group."""
        return getattr(self.comm, "context", 0)

    @property
    def size(self) -> int:
        """How many ranks it has."""
        return self.comm.size

    @property
    def source(self) -> str:
        """Who called: "train.py:113 main", the first frame outside this package."""
        code = self._code
        return place(code.co_filename, _line(code, self._lasti), code.co_name)

    @property
    def what(self) -> str:
        """Name, shape and dtype, which all ranks must have alike."""
        return self.name + (f" of {self.shape} {self.dtype}" if self.dtype is not None else "")

    def __str__(self) -> str:
        return f"{self.name} #{self.number}{self.what[len(self.name) :]} at {self.source}"


class Flight:
    """What one rank has called. One that fails, by no mere UserError, stays under way.

    Attributes:
        calls: the latest, oldest first.
        blocked: (rank, since) while this rank's main thread waits for a message of or to that rank
            (numbered as in the run; None: for all), since `time.perf_counter()` seconds.
    """

    def __init__(self) -> None:
        self.calls: deque[Call] = deque(maxlen=KEPT)
        self.blocked: tuple[int | None, float] | None = None
        self._counts: dict[str, int] = {}  # by the communicator's label

    def begin(self, comm: "Communicator", name: str, array: Any, tag: int, blocking: bool) -> Call:
        """Note a collective that begins now."""
        counts, label = self._counts, comm.label
        call = Call()
        call.number = counts[label] = counts.get(label, 0) + 1
        call.comm, call.name, call.tag, call.blocking = comm, name, tag, blocking
        call.shape, call.dtype = ((), None) if array is None else (array.shape, array.dtype)
        frame = _getframe(1)
        while _inside[frame.f_code.co_filename] and (back := frame.f_back):
            frame = back
        call._code, call._lasti = frame.f_code, frame.f_lasti
        call.ended = None
        call.began = perf_counter()
        self.calls.append(call)
        return call

    def end(self, call: Call) -> None:
        """Note that it ends now."""
        call.ended = perf_counter()

    def under_way(self) -> list[Call]:
        """Those begun and not ended, oldest first; safe from any thread."""
        return [call for call in list(self.calls) if call.ended is None]

    def current(self) -> Call | None:
        """The one that the rank is in: the last that blocks, or else the oldest under way, which
        `Progress` waits for before all others."""
        calls = self.under_way()
        return next((c for c in reversed(calls) if c.blocking), calls[0] if calls else None)


class _Inside(dict):
    """By file name, whether a frame of it is passed over."""

    def __missing__(self, name: str) -> bool:
        self[name] = inside = name.startswith(_PLUMBING)
        return inside


_inside = _Inside()


def is_plumbing(path: str) -> bool:
    """Whether frames of this file are passed over on the way to who called."""
    return _inside[path]


def place(path: str, line: int, function: str) -> str:
    """ "train.py:113 main"; files of this repository with their folder."""
    root = os.path.dirname(_PACKAGE) + os.sep
    path = path[len(root) :] if path.startswith(root) else os.path.basename(path)
    return f"{path}:{line} {function}"


def _line(code: CodeType, lasti: int) -> int:
    """Of the instruction: a frame computes its f_lineno at each look, and most are never asked."""
    lines = (line for start, end, line in code.co_lines() if start <= lasti < end and line)
    return next(lines, code.co_firstlineno)
