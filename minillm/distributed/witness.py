"""A process beside rank 0 that says which rank was killed, even if all are killed at once.

    python witness.py RANK:FD ...        started by the watchdog, in a session of its own

In: rank 0's connections to the other ranks, of which it only sees the end; on stdin, what rank 0
would say of each rank, a JSON line a heartbeat. Out: one report on stderr, if a connection ends and
rank 0 does not say that it was to end.

It is needed because a launcher that sees a rank die kills the others within milliseconds, sooner
than a busy rank 0 may come to speak. A process in another session is none of its business, but the
launcher passes on what it prints. Linux only, and light: nothing but the standard library.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from typing import Any

# Seconds in which rank 0 may say that a connection was to end, or was not: a loaded one takes its
# time, and one that is killed too is no longer waited for.
_PATIENCE = 5.0


class Witness:
    """The process, as rank 0 sees it.

    Attributes:
        there: whether it runs.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()  # a long line of one thread is no single write

    @property
    def there(self) -> bool:
        return self._process is not None

    def start(self, sockets: dict[int, socket.socket]) -> None:
        """Let it watch these connections, by rank; on Linux, and else nothing."""
        if not hasattr(select, "POLLRDHUP"):
            return
        fds = {rank: connected.fileno() for rank, connected in sockets.items()}
        words = [f"{rank}:{fd}" for rank, fd in fds.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *words], pass_fds=list(fds.values()),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._process.stdout.read(1)  # it is ready

    def tell(self, **message: Any) -> None:
        """`doing` by rank and `table`; ranks that are `fine` or `gone`; that it is `over`."""
        if self._process is not None:
            with self._lock, contextlib.suppress(OSError):
                os.write(self._process.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def stop(self) -> None:
        """Wait for its end."""
        self.tell(over=True)
        if self._process is not None:
            self._process.wait()
            self._process = None


# --- the process ----------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    """Watch until rank 0 says that it is over, or a rank is gone."""
    ranks = {int(fd): int(rank) for rank, fd in (word.split(":") for word in argv)}
    poll = select.poll()
    poll.register(0, select.POLLIN)
    for fd in ranks:
        poll.register(fd, select.POLLRDHUP)
    os.write(1, b".")
    told, heard, unread = {"doing": {}, "table": ""}, time.monotonic(), b""
    ended: dict[int, float] = {}  # ranks whose connection has, and when that was seen
    while True:
        events = dict(poll.poll(50 if ended else None))
        now = time.monotonic()
        for fd in events.keys() & ranks.keys():
            ended[ranks[fd]] = now
            poll.unregister(fd)
        if 0 in events:
            data = os.read(0, 1 << 20)
            if not data:
                ended.setdefault(0, now)
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                message, heard = json.loads(line), now
                if "over" in message:
                    return
                told.update(message)
                for rank in message.get("fine", ()):
                    ended.pop(rank, None)
        first = min(ended.values(), default=now)
        if 0 in ended or now - first > _PATIENCE or ended.keys() & set(told.get("gone", ())):
            report(told, [rank for rank in ended if ended[rank] == first], first - heard)
            return


def report(told: dict, gone: list[int], ago: float) -> None:
    """Say who is gone, what it did last, and where the others are."""
    if len(gone) == 1:
        doing = told["doing"].get(str(gone[0]), "")
        line = f"rank {gone[0]} is gone, killed or crashed"
        line += f"; {max(ago, 0.0):.1f} s before, it {doing}" if doing else ""
    else:
        words = ", ".join(str(rank) for rank in sorted(gone))
        line = f"ranks {words} are gone; the launcher says with which it began"
    os.write(2, f"minillm: watchdog: {line}\n{told['table']}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
