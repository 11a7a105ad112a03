"""How a run ends when something goes wrong: all ranks, within seconds, and with the reason.

A rank that dies of an exception under plain `python` leaves the others waiting for its messages for
ever. So the hooks installed here print which rank failed and abort all of them. Three ways to end:

- any exception, also of a thread: traceback under "rank 2 of 4 raised:", then abort;
- a UserError, which usually all ranks raise alike: rank 0 prints its one line, each exits with 2;
- a normal end, or SystemExit: the rank leaves and says so (`MPICommunicator.leave`). Others that
  still wait for it find that out and raise, which is the first case.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from minillm.distributed.flight import Flight
from minillm.errors import UserError

# Called when a rank has raised, before it says so and aborts all.
before_abort: list[Callable[[], None]] = []

_reason = ""


def reason() -> str:
    """The UserError this process ends with; empty if it ends well."""
    return _reason


def say(text: str) -> None:
    """One write to stderr, so that lines of several ranks do not mix."""
    sys.stderr.write(f"minillm: {text}\n")
    sys.stderr.flush()


def install(
    rank: int, size: int, abort: Callable[[int], None], flight: Flight | None = None
) -> None:
    """Take over what Python does with an uncaught exception.

    Args:
        abort: ends all ranks with the given exit code.
        flight: this rank's collectives, of which the report names the one that failed.
    """

    def ends(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        global _reason
        if issubclass(kind, UserError):
            _reason = str(error)
            if rank == 0:
                say(_reason)
            raise SystemExit(2)  # through the interpreter's normal exit, so that ranks can agree
        if size == 1 and not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            fail(kind, error, trace)

    def fail(kind: type, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stdout.flush()
        if issubclass(kind, KeyboardInterrupt):  # mpirun passes Ctrl-C on to every rank
            say(f"rank {rank} of {size} interrupted" if size > 1 else "interrupted")
            for told in before_abort:
                told()
            abort(130)
        text = "".join(traceback.format_exception(kind, error, trace))
        if flight is not None and flight.current() is not None:
            text += f"Under way there: {flight.current()}\n"
        for told in before_abort:
            told()
        say(f"rank {rank} of {size} raised:\n{text}")
        time.sleep(0.3)  # for the launcher to pass that on: it drops what is unread when it kills
        abort(1)

    def thread_ends(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            fail(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = ends
    if size > 1:
        threading.excepthook = thread_ends
