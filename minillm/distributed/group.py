"""Some ranks of a communicator as one of their own; which ranks share a host.

    row = split(comm, color=comm.rank // 4)     the ranks with this color, as a Group
    all_reduce(row, array)                      among them alone

The axes of a rank grid (data, tensor, pipeline) are splits by the other coordinates.
"""

from collections.abc import Sequence

import numpy as np

from minillm.distributed.comm import TAGS, Communicator, Exchange, Request
from minillm.distributed.ring import all_gather
from minillm.errors import UserError


class Group(Communicator):
    """The given ranks of `parent`, counted anew in this order; made by each of them alike.

    Its messages are the parent's, whose `bytes_sent` counts them all; the group's own leaves out
    those of exchanges.

    Args:
        ranks: the parent's, this one's among them.
        context: groups with different contexts never take each other's messages, nor the parent's
            unless it is 0. Whoever makes groups that are in use at the same time sees to that;
            `split` does.
    """

    def __init__(self, parent: Communicator, ranks: Sequence[int], context: int = 0):
        super().__init__(ranks.index(parent.rank), len(ranks))
        self.parent, self.ranks, self.context = parent, list(ranks), context
        self.host_of = [parent.host_of[rank] for rank in ranks]
        self.flight, self.gpu_aware = parent.flight, parent.gpu_aware
        self.label = f"{parent.label}{context}:{','.join(map(str, ranks))};"
        self.tables, self.most_tag = parent.tables, parent.most_tag
        if (context + 1) * TAGS - 1 > self.most_tag:
            raise UserError(f"this MPI has tags for {self.most_tag // TAGS} splits, no more")

    def _isend(self, data: np.ndarray, dest: int, tag: int) -> Request:
        return self.parent.isend(data, self.ranks[dest], self._tag(tag))

    def _irecv(self, data: np.ndarray, source: int, tag: int) -> Request:
        return self.parent.irecv(data, self.ranks[source], self._tag(tag))

    def exchange(self, nbytes: int, peer: int, tag: int = 0) -> Exchange:
        return self.parent.exchange(nbytes, self.ranks[peer], self._tag(tag))

    def _tag(self, tag: int) -> int:
        return tag + self.context * TAGS

    def abort(self, code: int = 1) -> None:
        self.parent.abort(code)


def split(comm: Communicator, color: int, key: int = 0) -> Group:
    """The ranks that give the same `color`, ordered by `key`, then by rank: MPI_Comm_split.

    A collective of all ranks of `comm`, which may be a Group itself.
    """
    top = comm
    while isinstance(top, Group):
        top = top.parent
    told = np.zeros((comm.size, 3), np.int64)
    told[comm.rank] = color, key, top.contexts
    all_gather(comm, told.reshape(-1))
    # Unused by any of these ranks so far, so by any two of them.
    context = int(told[:, 2].max()) + 1
    top.contexts = context
    same = [rank for rank in range(comm.size) if told[rank, 0] == color]
    same.sort(key=lambda rank: told[rank, 1])
    if comm is not top:
        same = [comm.ranks[rank] for rank in same]
    return Group(top, same, context)


def hosts(comm: Communicator) -> list[list[int]]:
    """The ranks of each host, both in order; a host is what shares memory, as MPI sees it."""
    by_host: dict[int, list[int]] = {}
    for rank, host in enumerate(comm.host_of):
        by_host.setdefault(host, []).append(rank)
    return list(by_host.values())
