"""What a rank says of itself, several times a second, for the watchdog.

In: its flight recorder, and where its main thread stands. Out: a dictionary, sent as JSON.

To stand still is to be at the same instruction, in the same collective, waiting for the same
message if any, and to use next to no time of the processor.
"""

import linecache
import os
import sys
import threading
import time
from time import perf_counter
from types import FrameType
from typing import Any

from minillm.distributed.comm import Communicator
from minillm.distributed.flight import Call, caller, place

State = dict[str, Any]

_LIBRARY = os.path.dirname(os.__file__) + os.sep
_SENT = 12  # of the latest calls
_READ = 0.3  # seconds at one place, after which its source line is read
_WORKS = 0.05  # share of a core; a loop that looks and sleeps, again and again, takes less


class Observer:
    """What this rank says of itself, for its main thread; call `state` from another one.

    Attributes:
        busy: what it is doing that may take long without a visible move; empty if nothing.
    """

    def __init__(self, comm: Communicator):
        self.comm, self.busy = comm, ""
        self._main = threading.main_thread().ident
        self._stack: list = []
        self._since = self._looked = perf_counter()
        self._used = 0.0

    def state(self) -> State:
        """As JSON takes it:

        calls: the latest collectives, each [label of its ranks, number, what, source]
        in: the one that it is in, or None
        blocked: [rank, seconds] while it waits for that rank (None: for all), or None
        where, still: where its main thread stands, and for how many seconds
        busy: as above
        """
        now, flight = perf_counter(), self.comm.flight
        calls = list(flight.calls)
        current, blocked = flight.current(), flight.blocked
        frame = sys._current_frames().get(self._main)
        # One that was let go has moved, though news of those that wait for it may be older.
        outside, stack = None, [(current and (current.comm.label, current.number), blocked)]
        if frame is not None:
            outside = caller(frame)  # a wait looks different at each look
            while frame is not None:
                frame = outside if len(stack) == 1 else frame.f_back
                if frame is not None:
                    stack.append((id(frame.f_code), frame.f_lasti))
        used = _processor_seconds(self._main)
        if stack != self._stack or used - self._used > _WORKS * (now - self._looked):
            self._since = now
        self._stack, self._used, self._looked = stack, used, now
        where = _where(outside, now - self._since > _READ) if outside is not None else ""
        return {
            "calls": [_said(call) for call in calls[-_SENT:]],
            "in": current and _said(current),
            "blocked": blocked and [blocked[0], round(now - blocked[1], 3)],
            "where": where,
            "still": round(now - self._since, 3),
            "busy": self.busy,
        }


def _where(frame: FrameType, with_text: bool) -> str:
    """The innermost line that is no library's, and what of a library it is in, if it is."""
    inner = frame
    while _is_library(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
    line = _line(frame)
    where = place(frame.f_code, line)
    if frame is not inner:
        where += f" (in {place(inner.f_code, _line(inner))})"
    if with_text and (text := linecache.getline(frame.f_code.co_filename, line)):
        where += f": {text.strip()}"
    return where


def _line(frame: FrameType) -> int:
    return frame.f_lineno or frame.f_code.co_firstlineno  # some instructions have none


def _is_library(path: str) -> bool:
    return path.startswith(("<frozen", _LIBRARY)) or "site-packages" in path


def _said(call: Call) -> list:
    return [call.comm.label, call.number, call.what, call.source]


def _processor_seconds(thread: int) -> float:
    """Used by this thread so far."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return time.process_time()  # macOS: by the whole process
