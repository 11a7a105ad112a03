"""`minillm ring-replay`: a ring all-reduce on real ranks, message by message, as a page to watch.

    minillm ring-replay --ranks 4 --mb 4 --out ring.html

In: ranks that mpirun starts. Out: one HTML file that needs nothing else: the pieces of the array as
they went from rank to rank, in measured time slowed down; a chart of each rank's sends, receives
and additions; and what the formula of ring.py predicts, per step and in all, from latency,
bandwidth and adding speed measured in the same run, by turns.

The messages are those of one of several all-reduces, the one that took the median time.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from minillm.cli.checks.mpi import find_mpirun
from minillm.distributed import Communicator, all_reduce, on_root, reduction, world
from minillm.distributed.clocks import measure_offsets, to_rank_0
from minillm.distributed.messages import Message, Messages, gather, pairs
from minillm.errors import UserError
from minillm.plan.links import Link

MOST_RANKS, MOST_MB = 16, 256.0
WARM, RUNS = 3, 15  # all-reduces before, and those of which the median is shown


@dataclass(frozen=True)
class Options:
    """Watch a ring all-reduce: who sent which piece to whom, when, and what was predicted."""

    ranks: int = 4
    """How many, 2 to 16. Under mpirun, those that it started."""
    mb: float = 4.0
    """Megabytes of float32 to sum."""
    out: str = "ring.html"
    """The page."""


@dataclass(frozen=True)
class Transfer:
    """A piece on its way from a rank to the next; times in seconds since the first rank began.

    Attributes:
        step: of the ring, from 0; the first p - 1 add, the others spread.
        chunk, piece: what is sent.
        summed: of how many ranks it is the sum, once it has arrived and been added.
        posted, free: when the sender began, and when it knew the array to be its own again.
        due: when the receiver was ready for it.
        waited: since when the receiver did nothing but wait for it, or None.
        arrived, used: when it was there, and when it was added.
    """

    source: int
    dest: int
    step: int
    chunk: int
    piece: int
    nbytes: int
    summed: int
    posted: float
    free: float
    due: float
    waited: float | None
    arrived: float
    used: float


@dataclass(frozen=True)
class Replay:
    """One all-reduce on `ranks` ranks.

    Attributes:
        pieces: of each of the `ranks` chunks.
        began, ended: by rank, in seconds since the first began.
        alone: the link between ranks 0 and 1 while all others are silent.
        busy: any link of the ring while all are in use.
        clock_error: times of two ranks may be apart by this.
        cores: for all ranks together; 0 where they are on several hosts.
    """

    ranks: int
    nbytes: int
    pieces: int
    transfers: list[Transfer]
    began: list[float]
    ended: list[float]
    alone: Link
    busy: Link
    clock_error: float
    cores: int


def main(argv: list[str]) -> int:
    """Start the ranks, or be one of them; the exit code."""
    comm = world()
    try:
        options = on_root(comm, partial(_options, argv, comm.size))
        if comm.size == 1:
            return _launch(options, argv)
        replay = record(comm, int(options.mb * 1e6) // 4)
        text = on_root(comm, partial(_write, replay, Path(options.out)))
    except UserError:  # of all ranks alike: rank 0 says it
        if comm.rank:
            return 2
        raise
    if comm.rank == 0:
        print(text)
    return 0


def _options(argv: list[str], size: int) -> Options:
    import tyro

    options = tyro.cli(Options, args=argv, prog="minillm ring-replay", use_underscores=True)
    ranks = options.ranks if size == 1 else size
    if not 2 <= ranks <= MOST_RANKS:
        raise UserError(f"--ranks {ranks}: a ring to look at has 2 to {MOST_RANKS} ranks")
    if not 0.001 <= options.mb <= MOST_MB:
        raise UserError(f"--mb {options.mb:g}: choose 0.001 to {MOST_MB:g} megabytes")
    folder = Path(options.out).resolve().parent
    if not folder.is_dir() or not options.out.endswith(".html"):
        raise UserError(
            f"--out {options.out}: name a file ending in .html, in a folder that exists"
        )
    return options


def _launch(options: Options, argv: list[str]) -> int:
    """This command again, on ranks of its own."""
    mpirun = find_mpirun()
    if mpirun is None:
        raise UserError("no mpirun to start the ranks with: pip install mpi4py mpich")
    program = [sys.executable, "-m", "minillm.cli", "ring-replay", *argv]
    return subprocess.call([mpirun, "-n", str(options.ranks), *program])


def record(comm: Communicator, n: int) -> Replay | None:
    """Sum n float32 again and again, a collective; rank 0 gets the run of the median time."""
    p = comm.size
    messages = Messages(comm)
    pieces = -(-4 * n // (p * reduction.PIECE_BYTES))
    array, own = np.ones(n, np.float32), np.ones(-(-n // (p * pieces)), np.float32)
    on_root(comm, lambda: reduction.combine(np.add, own, own.copy()))  # compiles it for all
    first = measure_offsets(comm)
    links, runs = _Links(comm, own), []
    for _ in range(WARM + RUNS):  # by turns: a busy moment of the machine meets both
        links.measure()
        array[:] = 1
        messages.noted = []
        comm.barrier()
        messages.recording = True
        began = time.perf_counter()
        all_reduce(messages, array, algorithm="ring")
        ended = time.perf_counter()
        messages.recording = False
        if not (array == p).all():
            raise RuntimeError(f"rank {comm.rank}: the sum of {p} ones is {array[array != p][0]}")
        runs.append((began, ended, messages.noted))
    runs = runs[WARM:]
    took = np.array([ended - began for began, ended, _ in runs])
    all_reduce(comm, took, "max")
    chosen = runs[int(np.argsort(took)[RUNS // 2])]
    last, busy, alone = measure_offsets(comm), links.link(False), links.link(True)
    everyone = gather(comm, (*chosen, array.ctypes.data))
    if comm.rank:
        return None
    move = [partial(to_rank_0, rank, first, last) for rank in range(p)]
    start = min(move[rank](began) for rank, (began, *_) in enumerate(everyone))
    clocks = [lambda t, moved=moved: moved(t) - start for moved in move]
    one_host = len(set(comm.host_of)) == 1
    return Replay(
        ranks=p,
        nbytes=4 * n,
        pieces=pieces,
        transfers=_transfers([(noted, base) for *_, noted, base in everyone], n, pieces, clocks),
        began=[clock(began) for clock, (began, *_) in zip(clocks, everyone)],
        ended=[clock(ended) for clock, (_, ended, *_) in zip(clocks, everyone)],
        alone=alone,
        busy=busy,
        clock_error=max(*first.error, *last.error),
        cores=len(os.sched_getaffinity(0)) if one_host and hasattr(os, "sched_getaffinity") else 0,
    )


def _transfers(
    noted: list[tuple[list[Message], int]], n: int, pieces: int,
    clocks: list[Callable[[float], float]],
) -> list[Transfer]:  # fmt: skip
    """Pair the messages of all ranks, and tell from its address which piece each has sent."""
    p = len(noted)
    starts = {i * n // (p * pieces): i for i in range(p * pieces)}  # elements: chunk and piece
    order = {
        id(m): k
        for own, _ in noted
        for k, m in enumerate(message for message in own if message.sends)
    }
    found = []
    for source, send, dest, receive in pairs([own for own, _ in noted]):
        chunk, piece = divmod(starts[(send.address - noted[source][1]) // 4], pieces)
        step = order[id(send)] // pieces
        there, here = clocks[dest], clocks[source]
        arrived = there(receive.ended)
        adds = step < p - 1
        found.append(
            Transfer(
                source, dest, step, chunk, piece, send.nbytes,
                summed=min(step + 2, p),
                posted=here(send.began),
                free=here(send.ended),
                due=there(receive.began),
                waited=None if receive.waited is None else there(receive.waited),
                arrived=arrived,
                used=there(receive.used) if adds and receive.used else arrived,
            )
        )  # fmt: skip
    return found


class _Links:
    """Times messages to the right and from the left, as long as the ring's, and adding what came:
    on all ranks at once, or between ranks 0 and 1 while the others wait."""

    def __init__(self, comm: Communicator, own: np.ndarray):
        self.comm, self.own, self.into = comm, own, np.zeros_like(own)
        self.times: dict[tuple[str, bool], list[float]] = {}

    def measure(self) -> None:
        """Each once more: a collective."""
        rank, size = self.comm.rank, self.comm.size
        self._measure(False, (rank + 1) % size, (rank - 1) % size)
        self._measure(True, 1 - rank, 1 - rank)

    def _measure(self, alone: bool, right: int, left: int) -> None:
        comm, own, into = self.comm, self.own, self.into
        word, answer = np.zeros(1, np.uint8), np.empty(1, np.uint8)
        calls = {
            "short": lambda: comm.sendrecv(word, right, answer, left),
            "long": lambda: comm.sendrecv(own, right, into, left),
            "adding": lambda: reduction.combine(np.add, own, into),
        }
        for name, call in calls.items():
            comm.barrier()
            if not alone or comm.rank < 2:
                call()  # brings the ranks into step
                began = time.perf_counter()
                for _ in range(3):
                    call()
                took = (time.perf_counter() - began) / 3
                self.times.setdefault((name, alone), []).append(took)

    def link(self, alone: bool) -> Link:
        """From the medians, means over the ranks that took part: a collective."""
        found = []
        for name in ("short", "long", "adding"):
            own = self.times.get((name, alone))
            total = np.array([median(own) if own else 0.0])
            all_reduce(self.comm, total)
            found.append(total.item() / (2 if alone else self.comm.size))
        latency, long, adding = found
        n = self.own.nbytes
        return Link(latency, n / max(long - latency, 1e-9), adding / n)


def _write(replay: Replay, path: Path) -> str:
    """Write the page; what there is to say about it."""
    from minillm.cli.ring_page import page, seconds

    try:
        path.write_text(page(replay), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    predicted = [link.ring(replay.ranks, replay.nbytes) for link in (replay.busy, replay.alone)]
    return (
        f"{path}: {len(replay.transfers)} messages of a ring all-reduce of"
        f" {replay.nbytes / 1e6:g} MB on {replay.ranks} ranks, to be opened in a browser\n"
        f"measured {seconds(max(replay.ended))}, the median of {RUNS}; predicted"
        f" {seconds(predicted[0])} with all links in use, {seconds(predicted[1])} with one in use"
    )
