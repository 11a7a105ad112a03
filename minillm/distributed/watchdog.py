"""A watchdog beside the training: notices a rank that hangs, dies or calls something else.

    with Watchdog(comm, seconds=60) as dog:
        ...
        with dog.busy("saving"):
            ...                       long without a visible move: see diagnosis.py

In each rank a thread tells rank 0, some times a second and over a TCP connection of its own, what
the rank is in (flight.py), for whom it waits and where its main thread stands. Rank 0 compares
(diagnosis.py). When something is wrong, one line names the rank to blame, a table shows all, and
all ranks are aborted with exit code 1. The connections do without MPI: a main thread that hangs in
MPI, or elsewhere, is no obstacle, but for one in C code that keeps Python's lock: it is silent.

Should rank 0 itself die or fall silent, rank 1 reports it, or the next one that is there. A rank
that raises says so, and failure.py reports it; where ranks were in different collectives, that is
said too, since it explains many an error of MPI's, as of a message too long.

Where all ranks were stopped for a while and go on (Slurm's suspend, a frozen container), the time
that passed is nobody's fault: after a gap in its own watch a rank trusts no wait for `seconds`.

A launcher that sees a rank die kills the others within milliseconds: on Linux another process tells
which it was (witness.py). Ranks on several hosts have not been tried.

Cost: a heartbeat each tenth of `seconds`, of 0.1 to 0.5 s. It takes 0.15 to 0.25 ms of a core,
0.05 % of the default's 0.5 s; rank 0's, with 64 ranks to look after, 2 ms more.
"""

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from minillm.distributed import failure
from minillm.distributed.comm import Communicator
from minillm.distributed.diagnosis import SILENT, Verdict, diagnose, mismatch, past, table
from minillm.distributed.link import Link, connect
from minillm.distributed.observer import Observer, State
from minillm.distributed.stragglers import Stragglers
from minillm.distributed.witness import Witness
from minillm.errors import UserError


class Watchdog:
    """Watches all ranks of `comm` between `start` and `stop`, both collectives, or in a `with`.

    Args:
        comm: all ranks of the run.
        seconds: how long a rank may wait for one message while the one it waits for stands still.

    Raises:
        UserError: a rank cannot reach rank 0.
    """

    def __init__(self, comm: Communicator, seconds: float = 60.0):
        self.comm, self.seconds = comm, seconds
        self.interval = min(max(seconds / 10, 0.1), 0.5)
        self._observer = Observer(comm)
        self._peers: dict[int, Link] = {}
        self._left: set[int] = set()
        self._gone: list[int] = []
        self._states: dict[int, State] = {}
        self._heard: dict[int, float] = {}
        self._explained = threading.Event()
        self._asked_by: dict[int, float] = {}  # ranks that raised, and when
        self._stragglers = Stragglers()
        self._witness = Witness()
        self._mismatched = 0.0  # when that was seen
        self._ending = False
        self._trusted = 0.0  # when times count again after a pause
        self._selector = selectors.DefaultSelector()
        self._thread: threading.Thread | None = None
        self._wake, self._woken = socket.socketpair()

    # --- what the program calls -------------------------------------------------------------------

    def start(self) -> "Watchdog":
        """Connect all ranks and begin."""
        if self.comm.size == 1:
            return self
        self._peers = connect(self.comm)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        for peer, link in self._peers.items():
            self._selector.register(link.socket, selectors.EVENT_READ, peer)
            self._heard[peer] = time.monotonic()
        if self.comm.rank == 0:
            self._witness.start({peer: link.socket for peer, link in self._peers.items()})
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        failure.before_abort.append(self._raised)
        return self

    def stop(self, together: bool = True) -> None:
        """End, on all ranks `together`; or on this one alone, which ends by itself."""
        if self._thread is None:
            return
        if together:
            self._ending = True
            self.comm.barrier()  # from now on, a connection that ends is no death
            self._witness.tell(over=True)
            self.comm.barrier()  # none ends before the witness knows that, too
        failure.before_abort.remove(self._raised)
        self._wake.send(b".")
        self._thread.join()
        self._thread = None
        for link in self._peers.values():
            link.finish()
        self._witness.stop()

    def __enter__(self) -> "Watchdog":
        return self.start()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None or issubclass(kind, (UserError, SystemExit)):
            self.stop(together=kind is None)

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Work that may stand still for longer than `seconds`, in words: "saving"."""
        before, self._observer.busy = self._observer.busy, what
        try:
            yield
        finally:
            self._observer.busy = before

    # --- the thread -------------------------------------------------------------------------------

    def _watch(self) -> None:
        due = looked = time.monotonic()
        while True:
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                if key.data is None:
                    return
                self._read(key.data)
            now = time.monotonic()
            if now - looked > max(1.0, self.seconds / 4):  # stopped ourselves: perhaps all were
                self._trusted = now + self.seconds
            looked = now
            if time.monotonic() >= due:
                due = time.monotonic() + self.interval
                self._beat()
                if self.comm.rank == 0 and (words := self._stragglers.look(self._states)):
                    failure.say(f"watchdog: {words}")
            self._judge()

    def _read(self, peer: int) -> None:
        link = self._peers[peer]
        for message in link.receive():
            self._heard[peer] = time.monotonic()
            if "states" in message:  # rank 0's, for the one that takes over from it
                for rank, state in message["states"].items():
                    self._states[int(rank)] = state
                    self._heard[int(rank)] = self._heard[peer]
            if "state" in message:
                self._states[peer] = message["state"]
            if "left" in message:
                self._left.add(peer)
            if "raised" in message:
                self._asked_by[peer] = time.monotonic()
                if not message["raised"]:
                    self._end_explained()
            if "explained" in message:
                self._explained.set()
        if link.ended:
            self._selector.unregister(link.socket)
            if not (self._ending or peer in self._left or peer in self._asked_by):
                self._gone.append(peer)
            else:
                self._witness.tell(fine=[peer])

    def _beat(self) -> None:
        rank = self.comm.rank
        self._states[rank], self._heard[rank] = self._observer.state(), time.monotonic()
        for peer, link in self._peers.items():
            if rank == 0 and peer == min(self._peers):
                link.send({"states": self._states})
            else:
                link.send({"state": self._states[rank]})
        if self._witness.there:
            silent = {r: time.monotonic() - self._heard[r] for r in self._states}
            doing = {r: past(state) for r, state in self._states.items()}
            rows = table(self._states, silent, self.comm.size)
            self._witness.tell(doing=doing, table=rows)

    def _judge(self) -> None:
        now, rank = time.monotonic(), self.comm.rank
        silent = {r: now - self._heard.get(r, now) for r in self._states}
        if rank == 0:
            if self._explained.is_set():
                return  # some rank is aborting: others that end now, end by that
            if self._gone and self._asked_by:  # an error of MPI's, because that one is gone
                self._report(diagnose(self._states, silent, self._gone, self.seconds), silent)
            elif self._asked_by:
                self._explain(silent)
            elif verdict := diagnose(self._states, silent, self._gone, self.seconds):
                if verdict.kind in ("late", "deadlock") and now < self._trusted:
                    return
                if verdict.kind == "mismatch":  # the others are to say with whom they agree
                    self._mismatched = self._mismatched or now
                    if now - self._mismatched < 2 * self.interval:
                        return
                self._report(verdict, silent)
            return
        # Only when rank 0 is in no condition to speak; of those that see it, the lowest goes first.
        turn, quiet, least = rank * 0.5, now - self._heard[0], max(self.seconds, SILENT)
        blocked = self._states[rank]["blocked"] if rank in self._states else None
        if 0 in self._left:
            return
        if self._gone:
            if quiet >= turn:
                self._report(diagnose(self._states, silent, [0], self.seconds), silent)
        elif blocked and min(quiet, blocked[1]) > least + turn and now >= self._trusted:
            verdict = diagnose(self._states, silent, [], self.seconds)
            if verdict is not None and 0 in verdict.ranks:
                self._report(verdict, silent)

    def _report(self, verdict: Verdict, silent: dict[int, float]) -> None:
        self._say(verdict, silent)
        for link in self._peers.values():
            link.send({"left": True})  # by the abort below: no need to report this one too
        # Also past a main thread that keeps MPI to itself.
        last = threading.Timer(5.0, os._exit, (1,))
        last.daemon = True
        last.start()
        time.sleep(0.3)  # for the launcher to pass that on
        self.comm.abort(1)

    def _say(self, verdict: Verdict, silent: dict[int, float]) -> None:
        if verdict.kind == "gone" and self._witness.there:
            self._witness.tell(gone=verdict.ranks)
            return
        self._witness.tell(over=True)
        rows = table(self._states, silent, self.comm.size)
        if self.comm.rank:
            rows += (
                "\n  What rank 0 has not passed on is missing: another rank reports in its place."
            )
        failure.say(f"watchdog: {verdict.line}\n{rows}")

    # --- errors -----------------------------------------------------------------------------------

    def _raised(self) -> None:
        """This rank ends by an exception that failure.py is about to report: tell, and let rank 0
        see whether another is gone or in a different collective, which explains many an error of
        MPI's. Outside of collectives there is nothing to explain."""
        waits = bool(self.comm.flight.under_way())
        told = {"raised": waits, "state": self._observer.state()}
        for link in self._peers.values():
            link.send(told)
        if self.comm.rank == 0:
            self._states[0] = told["state"]
            self._asked_by[0] = time.monotonic()
        if waits and 0 not in self._left:
            self._explained.wait(5 * self.interval)
        self._end_explained()

    def _end_explained(self) -> None:
        """Whoever ends from now on ends by the abort of a rank that has raised."""
        self._explained.set()
        self._witness.tell(over=True)

    def _explain(self, silent: dict[int, float]) -> None:
        """Once all ranks have had the time to say where they are."""
        if time.monotonic() - max(self._asked_by.values()) < 2 * self.interval:
            return
        verdict = mismatch(self._states)
        if verdict is not None:
            self._say(verdict, silent)
        self._end_explained()
        for rank in self._asked_by:
            if rank:
                self._peers[rank].send({"explained": True})
