"""Broadcast and reduce along a binomial tree: one rank to all, all to one, log2(p) messages deep.

With ranks counted from the root, rank r hangs under r without its lowest bit, and has below it
r + 1, r + 2, r + 4, ... up to that bit. Eight ranks: 0 - (1, 2 - (3), 4 - (5, 6 - (7))).

    broadcast   ceil(log2 p) * (latency + n / bandwidth)
    reduce      the same, and as many additions, piece by piece: a piece climbs on while the next
                is being added below
"""

import numpy as np

from minillm.device import Array
from minillm.distributed.comm import Communicator
from minillm.distributed.reduction import combine_arriving, cut, finish, on_host, ufunc_of
from minillm.distributed.staging import ready
from minillm.distributed.steps import Collective, Steps


def _family(comm: Communicator, root: int) -> tuple[int | None, list[int]]:
    """The rank above, if any, and those below, the one with the fewest below it first."""
    p, r = comm.size, (comm.rank - root) % comm.size
    below, reach = [], 1
    while reach < p and not r & reach:
        if r + reach < p:
            below.append((comm.rank + reach) % p)
        reach *= 2
    return (comm.rank - reach) % p if r else None, below


@Collective
def broadcast(comm: Communicator, array: Array, root: int = 0, tag: int = 0) -> Steps[None]:
    """Overwrite `array` (n,), flat and contiguous, with that of rank `root`."""
    above, below = _family(comm, root)
    if above is not None:
        yield comm.irecv(array, above, tag)
    yield from [comm.isend(array, rank, tag) for rank in reversed(below)]


@Collective
def reduce(
    comm: Communicator, array: Array, op: str = "sum", root: int = 0, tag: int = 0
) -> Steps[None]:
    """Replace `array` (n,) of rank `root` by its sum over ranks. Others are left with partial sums.

    Args:
        op: "sum", "mean", "max" or "min".
    """
    ufunc = ufunc_of(op, array)
    yield from on_host(comm, array, lambda host: reduce_to(comm, host, ufunc, root, tag))
    if comm.rank == root:
        finish(array, op, comm.size)


def reduce_to(
    comm: Communicator, array: np.ndarray, ufunc: np.ufunc, root: int, tag: int
) -> Steps[None]:
    """`reduce` on the host."""
    above, below = _family(comm, root)
    climbing = []
    for piece in cut(array):
        yield from combine_arriving(comm, [(piece, rank) for rank in below], ufunc, tag)
        if above is not None:
            yield from ready(piece)
            climbing.append(comm.isend(piece, above, tag))
    yield from climbing
