"""Which rank went wrong: replicas that no longer have the same bits, numbers that are not finite.

Data-parallel ranks hold the same parameters, bit by bit, after every step: they start from rank 0's
and apply the same sum of gradients. A bit that flips in the memory of one, or a step that it takes
alone, makes it train another model, whose gradients spoil everyone's, and nothing fails.

    check_replicas(comm, named_arrays, step)     every so many steps, on all ranks
    ranks, words = blame(comm, loss, norm)       once a sum over ranks is NaN or infinite

The checksum of an array is the sum of its elements' bits as integers, modulo 2^32 (2^64 for 8-byte
elements): one flipped bit always changes it; other differences go unseen once in 2^32 times. 100 MB
are read at 8 to 12 GB/s (by zlib.crc32: at 2); one all-gather of 8 bytes an array compares them.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from minillm.device import Array, to_device, xp_of
from minillm.distributed import failure
from minillm.distributed.allreduce import all_reduce
from minillm.distributed.comm import Communicator
from minillm.distributed.diagnosis import ranks_in_words
from minillm.distributed.ring import all_gather


class ReplicasDiffer(SystemExit):
    """Ends the run with exit code 1; rank 0 has reported why.

    Attributes:
        ranks: those whose arrays differ from the majority's; all of them if there is none. Empty
            where it is other ranks' replicas that differ.
        name: the first array that differs.
    """

    def __init__(self, ranks: list[int], name: str = ""):
        super().__init__(1)
        self.ranks, self.name = ranks, name


def checksums(arrays: Sequence[Array]) -> np.ndarray:
    """(len(arrays),) uint64 of the arrays' bits, wherever they are; views or contiguous."""
    sums = []
    for array in arrays:
        xp, size = xp_of(array), array.dtype.itemsize
        bits = array.reshape(-1).view(getattr(xp, f"uint{8 * size}"))
        # uint32 into uint32 needs no conversion: twice as fast as into uint64.
        total = bits.sum(dtype=xp.uint64 if size == 8 else xp.uint32)
        sums.append(to_device(total, "cpu"))
    return np.array(sums, np.uint64)


def check_replicas(
    comm: Communicator, arrays: Mapping[str, Array], step: int, run: Communicator | None = None
) -> None:
    """Compare the parameters of all ranks of `comm`: a collective of those of `run`.

    Args:
        arrays: by name, the same names in the same order on all ranks.
        step: for the report.
        run: all ranks, which end together, where those of `comm` have but a part of a model.

    Raises:
        ReplicasDiffer: on all ranks, if any differs; the first of its `comm` prints one line that
            names them.
    """
    sums = np.zeros((comm.size, len(arrays)), np.uint64)
    sums[comm.rank] = checksums(list(arrays.values()))
    everyone = sums.reshape(-1)
    all_gather(comm, everyone)
    kinds: dict[bytes, list[int]] = {}
    for rank in range(comm.size):
        kinds.setdefault(sums[rank].tobytes(), []).append(rank)
    run = run or comm
    differing = np.array([len(kinds) > 1])
    if run is not comm:
        all_reduce(run, differing, "max")
    if not differing[0]:
        return
    if len(kinds) == 1:
        run.barrier()
        raise ReplicasDiffer([])
    in_run = getattr(comm, "ranks", range(comm.size))  # a group's, counted as in the whole run
    majority = max(kinds.values(), key=len)
    if 2 * len(majority) <= comm.size:
        wrong, than = list(range(comm.size)), "one another"
    else:
        wrong = [rank for rank in range(comm.size) if rank not in majority]
        than = ranks_in_words([in_run[rank] for rank in majority])
    differs = (sums[wrong] != sums[majority[0]]).any(axis=0)
    wrong = [in_run[rank] for rank in wrong]
    names = [name for name, is_different in zip(arrays, differs) if is_different]
    if comm.rank == 0:
        failure.say(
            f"replicas differ after step {step}: {ranks_in_words(wrong)}"
            f" {'differs' if len(wrong) == 1 else 'differ'} from {than}, first in {names[0]},"
            f" in {len(names)} of {len(arrays)} arrays. Go on from the last checkpoint with"
            " --resume; should it come back on the same host, suspect its memory"
        )
    run.barrier()  # nobody ends before it is said
    raise ReplicasDiffer(wrong, names[0])


def blame(comm: Communicator, loss: float, norm: float) -> tuple[list[int], str]:
    """Whose own numbers are not finite: on all ranks, those ranks and a line on them. A collective.

    Args:
        loss: of this rank's own share of the batch.
        norm: of this rank's own gradient, before the sum over ranks, or its square.
    """
    own = np.zeros((comm.size, 2), np.float64)
    own[comm.rank] = loss, norm
    flat = own.reshape(-1)
    all_gather(comm, flat)
    names = "its own loss", "its own gradient, before the sum,"
    found = []
    for rank, values in enumerate(own.tolist()):
        bad = [f"{name} is {v}" for name, v in zip(names, values) if not math.isfinite(v)]
        if bad:
            found.append((rank, f"rank {rank}: {' and '.join(bad)}"))
    ranks = [rank for rank, _ in found]
    if not found:
        return ranks, "on each rank alone loss and gradient are finite: their sum is not"
    if len(ranks) == comm.size > 1:
        return ranks, "on all ranks: " + found[0][1].partition(": ")[2]
    fine = [rank for rank in range(comm.size) if rank not in ranks]
    rest = [f"{ranks_in_words(fine)}: finite"] if fine else []
    return ranks, "; ".join([*(words for _, words in found), *rest])
