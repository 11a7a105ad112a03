"""What training needs besides sums of gradients: work for one rank, an exact count."""

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from minillm.distributed.allreduce import all_reduce
from minillm.distributed.comm import Communicator
from minillm.distributed.tree import broadcast
from minillm.errors import UserError

T = TypeVar("T")


def on_root(comm: Communicator, fn: Callable[[], T]) -> T:
    """Run `fn()` on rank 0 alone; every rank returns its result, or raises what it refused with.

    For what must happen once: download, encode, write. The result is pickled for the other ranks,
    so let it be small. A UserError or SystemExit of `fn` is raised on every rank; any other
    exception ends the run, since rank 0 raises it.
    """
    if comm.size == 1:
        return fn()
    outcome: tuple[Any, UserError | SystemExit | None] = None, None
    pickled = b""
    if comm.rank == 0:
        try:
            outcome = fn(), None
        except (UserError, SystemExit) as refusal:  # bad input, or --help: all leave together
            outcome = None, refusal
        pickled = pickle.dumps(outcome)
    length = np.array([len(pickled)], np.int64)
    broadcast(comm, length)
    data = np.frombuffer(bytearray(pickled or int(length[0])), np.uint8)
    broadcast(comm, data)
    if comm.rank:
        outcome = pickle.loads(data.tobytes())
    result, refused = outcome
    if refused is not None:
        raise refused
    return result


def global_count(comm: Communicator, n: int) -> int:
    """The exact sum of an integer over ranks: how many tokens a step has, to divide its loss by."""
    total = np.array([n], np.int64)
    all_reduce(comm, total)
    return int(total[0])
