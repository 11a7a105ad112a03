"""What training needs besides the ring: broadcast, work for one rank, an exact count."""

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from minillm.device import Array
from minillm.distributed.comm import Communicator
from minillm.distributed.ring import all_reduce
from minillm.distributed.steps import Collective, Steps
from minillm.errors import UserError

T = TypeVar("T")


@Collective
def broadcast(comm: Communicator, array: Array, root: int = 0, tag: int = 0) -> Steps[None]:
    """Overwrite `array` (n,), flat and contiguous, with that of rank `root`.

    Along a binomial tree, log2(size) messages deep: who has the array passes it on, each time half
    as far. With ranks counted from the root, r hears from r without its lowest bit.
    """
    p, r = comm.size, (comm.rank - root) % comm.size
    reach = 1
    while reach < p and not r & reach:
        reach *= 2
    if r:
        yield comm.irecv(array, (comm.rank - reach) % p, tag)
    sends = []
    while reach > 1:
        reach //= 2
        if r + reach < p:
            sends.append(comm.isend(array, (comm.rank + reach) % p, tag))
    yield from sends


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
