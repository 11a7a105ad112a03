"""A side channel between two processes: JSON messages over TCP, where neither end ever waits.

Beside MPI and not through it: it works while a main thread hangs, and its end shows a death.
"""

import contextlib
import json
import secrets
import selectors
import socket
import threading
from typing import Any

import numpy as np

from minillm.distributed.collectives import on_root
from minillm.distributed.comm import Communicator
from minillm.distributed.ring import all_gather
from minillm.errors import UserError

_CONNECT = 10.0  # seconds


class Link:
    """JSON messages over a TCP connection, a line each; neither end ever waits for the other."""

    def __init__(self, connected: socket.socket):
        self.socket, self.ended = connected, False
        self._in, self._out = bytearray(), bytearray()
        self._lock = threading.Lock()
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setblocking(False)

    def send(self, message: dict[str, Any]) -> None:
        """Send, unless the last message still waits for a peer that does not read."""
        with self._lock, contextlib.suppress(OSError):
            if not self._out:
                self._out += json.dumps(message).encode() + b"\n"
            while self._out:
                del self._out[: self.socket.send(self._out)]

    def receive(self) -> list[dict[str, Any]]:
        """What has arrived since the last look; afterwards, `ended` is true if that was all."""
        try:
            data = self.socket.recv(1 << 20)
            self.ended = not data
        except BlockingIOError:
            return []
        except OSError:
            self.ended = True
            return []
        self._in += data
        *lines, rest = self._in.split(b"\n")
        self._in = rest
        return [json.loads(line) for line in lines]

    def first(self, seconds: float) -> dict[str, Any]:
        """The first message, waited for; empty if there is none, or not one of ours."""
        selector = selectors.DefaultSelector()
        selector.register(self.socket, selectors.EVENT_READ)
        try:
            return next(iter(self.receive()), {}) if selector.select(seconds) else {}
        except ValueError:
            return {}

    def finish(self) -> None:
        """Say goodbye; what was sent still arrives."""
        self.send({"left": True})
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)


def _addresses() -> list[str]:
    """What other hosts may reach this one by: its name, and its address on the way outside."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing, only chooses the interface
        found.append(probe.getsockname()[0])
    return found


def connect(comm: Communicator) -> dict[int, Link]:
    """Connect rank 0 with every other, a collective; the links of this rank, by the other's rank.

    Rank 0 listens, all others call; strangers lack the word that only ranks are told.

    Raises:
        UserError: a rank cannot reach rank 0.
    """
    listener, links = None, {}
    if comm.rank == 0:
        alone = len(set(comm.host_of)) == 1
        listener = socket.create_server(("127.0.0.1" if alone else "", 0), backlog=comm.size)
        listener.settimeout(_CONNECT)
    hosts, port, word = on_root(
        comm, lambda: (_addresses(), listener.getsockname()[1], secrets.token_hex(16))
    )
    if listener is None:
        if comm.host_of[comm.rank] == comm.host_of[0]:
            hosts = ["127.0.0.1"]
        for host in hosts:
            try:
                links[0] = Link(socket.create_connection((host, port), _CONNECT))
                links[0].send({"rank": comm.rank, "word": word})
                break
            except OSError:
                pass
    reached = np.zeros(comm.size, np.uint8)
    reached[comm.rank] = comm.rank == 0 or 0 in links
    all_gather(comm, reached)
    if not reached.all():
        raise UserError(
            f"the watchdog of rank {int(reached.argmin())} cannot reach rank 0 at"
            f" {' or '.join(hosts)}, port {port}: let the hosts connect, or use --watchdog 0"
        )
    while listener is not None and len(links) < comm.size - 1:
        link = Link(listener.accept()[0])
        hello = link.first(_CONNECT)
        if hello.get("word") == word:
            links[hello["rank"]] = link
    if listener is not None:
        listener.close()
    return links
