"""What a rank says of itself, several times a second, for the watchdog.

In: its flight recorder, and where its main thread stands. Out: a dictionary, sent as JSON.

To stand still is to be at the same line, in the same collective, waiting for the same message if
any, and to use next to no time of the processor.

Where it stands is read from faulthandler, which writes it down at one go, without letting go of
Python's lock. To walk another thread's frame objects while it runs crashes Python 3.11, rarely.
"""

import faulthandler
import linecache
import os
import re
import tempfile
import threading
import time
from time import perf_counter
from typing import Any

from minillm.distributed.comm import Communicator
from minillm.distributed.flight import Call, is_plumbing, place

State = dict[str, Any]
Frame = tuple[str, int, str]  # path, line, function

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
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - for faulthandler, as long as this
        self._at: tuple | None = None
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
        stack = self._frames()
        while len(stack) > 1 and is_plumbing(stack[0][0]):  # a wait looks different at each look
            stack = stack[1:]
        used = _processor_seconds(self._main)
        # One that was let go has moved, though news of those that wait for it may be older.
        at = stack, current and (current.comm.label, current.number), blocked
        if at != self._at or used - self._used > _WORKS * (now - self._looked):
            self._since = now
        self._at, self._used, self._looked = at, used, now
        where = _where(stack, now - self._since > _READ) if stack else ""
        return {
            "calls": [_said(call) for call in calls[-_SENT:]],
            "in": current and _said(current),
            "blocked": blocked and [blocked[0], round(now - blocked[1], 3)],
            "where": where,
            "still": round(now - self._since, 3),
            "busy": self.busy,
        }

    def _frames(self) -> list[Frame]:
        """Of the main thread, the innermost first."""
        self._file.seek(0)
        self._file.truncate()
        faulthandler.dump_traceback(self._file)
        self._file.seek(0)
        text = self._file.read().decode(errors="replace")
        _, _, after = text.partition(f"0x{self._main:016x} ")
        lines = after.partition("hread 0x")[0]  # those of the threads that follow
        return [(path, int(line), name) for path, line, name in _FRAME.findall(lines)]


_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


def _where(stack: list[Frame], with_text: bool) -> str:
    """The innermost line that is no library's, and what of a library it is in, if it is."""
    own = next((i for i, frame in enumerate(stack) if not _is_library(frame[0])), -1)
    path, line, name = stack[own]
    where = place(path, line, name)
    if own:
        where += f" (in {place(*stack[0])})"
    if with_text and (text := linecache.getline(path, line)):
        where += f": {text.strip()}"
    return where


def _is_library(path: str) -> bool:
    return path.startswith(("<frozen", _LIBRARY)) or "site-packages" in path


def _said(call: Call) -> list:
    return [call.comm.label, call.number, call.what, call.source]


def _processor_seconds(thread: int) -> float:
    """Used by this thread so far."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return time.process_time()  # macOS: by the whole process
