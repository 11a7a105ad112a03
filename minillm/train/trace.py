"""--trace: what every rank did in some steps, as a file for https://ui.perfetto.dev.

    trace = Trace(comm)               all ranks, before anything else uses comm
    comm = trace.comm                 the same ranks; their messages are noted
    with trace.span("data"): ...      a bar on the row of steps
    trace.step(step)                  after each step, counted from 1
    trace.write(out / "trace.json")   at the end, on all ranks; rank 0 writes, and prints a summary

In: ops as `autograd.observers` see them, collectives of the flight recorder, messages, spans. Out:
Chrome's trace events, made in timeline.py. Steps 3 to 12 of a run are recorded, no others: the
first ones compile, and a minute of training would be gigabytes. After that the trace costs nothing
to speak of. While it records, an op costs 0.6 us more, a message 5 us (a core at 2.1 GHz).

An op is seen when it ends. Its bar begins where what the rank did before ended - another op, a
message, a span - and so holds the Python between the two. On a GPU ops are launches, no more.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import get_ident
from time import perf_counter
from typing import Any

import numpy as np

from minillm import autograd
from minillm.distributed import Communicator, on_root
from minillm.distributed.clocks import measure_offsets
from minillm.distributed.comm import BARRIER_TAG, TAGS
from minillm.distributed.flight import KEPT, Call
from minillm.distributed.group import Group
from minillm.distributed.messages import Message, Messages, gather

FIRST = 2  # steps that are left out: they compile, and fill caches
STEPS = 10  # that are recorded
MOST = 300_000  # ops and messages of a rank, at which it stops early: 45 MB in the file


@dataclass
class Noted:
    """What one rank did; times in `time.perf_counter()` seconds of its clock.

    Attributes:
        steps: (number, began, ended) of each whole step, in order.
        spans: (name, began, ended).
        ops: (phase, name, began, ended), phase "forward" or "backward".
        calls: the collectives, as dictionaries.
        messages: see messages.py.
        launches: whether ops ran on a GPU, so that their times are those of launches.
    """

    steps: list[tuple[int, float, float]] = field(default_factory=list)
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    ops: list[tuple[str, str, float, float]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    launches: bool = False


class Trace:
    """Records the main thread of this rank. Making it and writing it are collectives.

    Args:
        comm: all ranks of the run.
        first: steps to leave out.
        steps: steps to record.

    Attributes:
        comm: the same ranks, to be used in its place.
    """

    def __init__(self, comm: Communicator, first: int = FIRST, steps: int = STEPS):
        self.comm = Messages(comm)
        self._first, self._wanted = first, steps
        self._seen = 0  # steps, before recording
        self._thread = get_ident()
        self._mark = self._step_began = perf_counter()
        self._noted = Noted()
        self._clocks = measure_offsets(comm)
        if first == 0:
            self._start()

    def span(self, name: str) -> AbstractContextManager[None]:
        """What happens inside is called `name`; spans may lie in one another."""
        return self._span(name) if self.comm.recording else nullcontext()

    @contextmanager
    def _span(self, name: str) -> Iterator[None]:
        self._mark = began = perf_counter()
        yield
        self._mark = perf_counter()
        self._noted.spans.append((name, began, self._mark))

    def step(self, step: int) -> None:
        """Step `step` is done, with all that belongs to it."""
        now = perf_counter()
        noted = self._noted
        if self.comm.recording:
            noted.steps.append((step, self._step_began, now))
            self._step_began = self._mark = now
            events = len(noted.ops) + len(self.comm.noted)
            if len(noted.steps) == self._wanted or events > MOST:
                self._stop()
        elif not noted.steps:
            self._seen += 1
            if self._seen == self._first:
                self._start()

    def _start(self) -> None:
        self.comm.recording = True
        self.comm.flight.calls = deque()
        autograd.observers.append(self._observe)
        self._mark = self._step_began = perf_counter()

    def _stop(self) -> None:
        if self.comm.recording:
            self.comm.recording = False
            autograd.observers.remove(self._observe)
            flight = self.comm.flight
            self._noted.calls = [_as_dictionary(call) for call in flight.calls]
            self._noted.messages = self.comm.noted
            flight.calls = deque(flight.calls, maxlen=KEPT)

    def _observe(self, phase: str, op: type, inputs: Any, outputs: Any) -> None:
        if get_ident() != self._thread:  # ranks may be threads
            return
        now = perf_counter()
        self._noted.ops.append((phase, op.name, max(self._mark, self.comm.last), now))
        if phase == "forward" and type(outputs[0]) is not np.ndarray:
            self._noted.launches = True
        self._mark = perf_counter()

    def write(self, path: Path) -> None:
        """Bring all ranks' notes together; rank 0 writes the file and prints what it shows.

        Raises:
            UserError: the file cannot be written.
        """
        from minillm.train import timeline  # what is only needed now

        self._stop()
        comm = self.comm.parent
        clocks = self._clocks, measure_offsets(comm)
        noted = gather(comm, self._noted)
        text = on_root(comm, partial(timeline.write, path, noted, *clocks))
        if comm.rank == 0:
            print(text, flush=True)


class Off:
    """In the place of a Trace where none is wanted."""

    def __init__(self, comm: Communicator):
        self.comm = comm

    def span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def step(self, step: int) -> None: ...

    def write(self, path: Path) -> None: ...


def _as_dictionary(call: Call) -> dict[str, Any]:
    """What timeline.py wants of a collective; `tag` is that of its messages."""
    comm, tag = call.comm, BARRIER_TAG if call.name == "barrier" else call.tag
    while isinstance(comm, Group):
        tag, comm = tag + comm.context * TAGS, comm.parent
    nbytes = int(np.prod(call.shape)) * call.dtype.itemsize if call.dtype is not None else 0
    return {
        "name": call.name, "number": call.number, "tag": tag, "ranks": call.size,
        "array": f"{call.shape} {call.dtype}" if call.dtype is not None else "none",
        "bytes": nbytes, "source": call.source, "began": call.began, "ended": call.ended,
    }  # fmt: skip
