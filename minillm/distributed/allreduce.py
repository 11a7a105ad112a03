"""all_reduce: one call, six algorithms, and which of them it takes.

    "doubling"       few messages: small arrays            doubling.py
    "halving"        few messages, few bytes: in between   doubling.py
    "ring"           fewest bytes, any number of ranks     ring.py
    "hierarchical"   inside hosts, then between them       hierarchical.py
    "mpi", "nccl"    MPI_Allreduce and NVIDIA's, to compare with; never taken by themselves

"auto" takes what was the fastest for that many bytes on that many ranks and hosts when it was last
measured (tuning.py), else the table below. It is the same on all ranks: they share one table, and
have arrays of the same length. Another algorithm adds in another order: the last bits may differ.
"""

from collections.abc import Callable
from math import inf

import numpy as np

from minillm.device import Array
from minillm.distributed.comm import Communicator
from minillm.distributed.doubling import doubling, halving, redouble
from minillm.distributed.hierarchical import hierarchical
from minillm.distributed.nccl import nccl_all_reduce
from minillm.distributed.reduction import OPS, finish, on_host, ufunc_of
from minillm.distributed.ring import ring
from minillm.distributed.steps import Collective, Steps
from minillm.errors import UserError

ALGORITHMS: dict[str, Callable[[Communicator, np.ndarray, np.ufunc, int], Steps[None]]] = {
    "doubling": doubling, "halving": halving, "ring": ring, "hierarchical": hierarchical,
}  # fmt: skip

# (up to how many bytes, algorithm). On one host: measured, two cores, 2 to 4 ranks. Between hosts,
# not measured, a ring has one message at a time on each link. Where the ranks are no power of two,
# doubling and halving send the whole array twice more.
_ONE_HOST = [(128 << 10, "doubling"), (inf, "halving")]
_HOSTS = [(64 << 10, "doubling"), (8 << 20, "halving"), (inf, "ring")]
_NO_POWER_OF_TWO = [(32 << 10, "doubling"), (inf, "ring")]


class _AllReduce(Collective[None]):
    """Called on a small array for which doubling has kept all it needs, does its rounds at once.

    A few bytes cost mostly Python: generators and checks that took longer than their messages.
    """

    def __call__(
        self,
        comm: Communicator,
        array: Array,
        op: str = "sum",
        algorithm: str = "auto",
        tag: int = 0,
    ) -> None:
        if (
            type(array) is np.ndarray
            and (kept := comm.kept.get((array.shape, array.dtype, tag))) is not None
            and tag not in comm.tags_taken
            and op in OPS
            and op != "mean"
            and array.flags.c_contiguous
            and (choose(comm, array.nbytes) if algorithm == "auto" else algorithm) == "doubling"
            and comm.size & comm.size - 1 == 0
        ):
            call = comm.flight.begin(comm, self.__name__, array, tag, True)
            redouble(kept, array, OPS[op])
            comm.flight.end(call)
        else:
            super().__call__(comm, array, op, algorithm, tag)


@_AllReduce
def all_reduce(
    comm: Communicator, array: Array, op: str = "sum", algorithm: str = "auto", tag: int = 0
) -> Steps[None]:
    """Replace `array` (n,), flat and contiguous, by its sum over ranks: the same bits on all.

    Args:
        op: "sum", "mean", "max" or "min". NaN wins in all of them.
        algorithm: of those above. "mpi" and "nccl" block, also as `.steps`.

    Raises:
        UserError: unknown operation or algorithm, one that is not there or does not fit the array.
    """
    ufunc = ufunc_of(op, array)
    if algorithm == "auto":
        algorithm = choose(comm, array.nbytes)
    elif algorithm not in ALGORITHMS and algorithm not in ("mpi", "nccl"):
        names = ", ".join(["auto", *ALGORITHMS, "mpi", "nccl"])
        raise UserError(f"no all-reduce algorithm {algorithm!r}: choose one of {names}")
    if comm.size == 1 or array.size == 0:
        return
    if algorithm == "nccl":
        yield from nccl_all_reduce(comm, array, op, tag)
    elif type(array) is not np.ndarray:
        yield from on_host(comm, array, lambda host: _reduce(comm, host, ufunc, algorithm, tag))
    else:
        yield from _reduce(comm, array, ufunc, algorithm, tag)
    finish(array, op, comm.size)


def _reduce(
    comm: Communicator, array: np.ndarray, ufunc: np.ufunc, algorithm: str, tag: int
) -> Steps[None]:
    if algorithm == "mpi":
        comm.mpi_all_reduce(array, ufunc)
    else:
        yield from ALGORITHMS[algorithm](comm, array, ufunc, tag)


def choose(comm: Communicator, nbytes: int) -> str:
    """The algorithm that "auto" stands for."""
    table = comm.tables.get(comm.layout)
    if table is None:
        usual = _ONE_HOST if len(set(comm.host_of)) == 1 else _HOSTS
        table = comm.tables[comm.layout] = _NO_POWER_OF_TWO if comm.size & comm.size - 1 else usual
    for most, name in table:
        if nbytes <= most:
            return name
    raise AssertionError("unreachable: tables end with infinity")
