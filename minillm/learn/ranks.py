"""A learner's functions on ranks: threads, on which every send waits for its receive."""

from collections.abc import Callable
from typing import Any

from minillm.distributed import run_threads
from minillm.learn.compare import Mistake


def on_ranks(what: str, size: int, fn: Callable, *args: Any) -> list:
    """What `fn(comm, *args)` returned on each of `size` ranks.

    Raises:
        Mistake: a deadlock: which rank waits for which.
    """
    try:
        return run_threads(size, lambda comm: fn(comm, *args))
    except RuntimeError as error:
        if str(error).startswith("deadlock"):
            raise Mistake(f"{what}: {error}") from None
        raise
