"""All-reduce on two levels: inside each host, where messages are cheap, and between hosts.

    1. the ranks of a host reduce to their first        tree.py
    2. the first ranks of all hosts all-reduce          ring.py
    3. each passes the result on inside its host        tree.py

Between h hosts it takes 2 (h - 1) messages of n / h one after another, where a ring over all p
ranks takes 2 (p - 1) of n / p: the same bytes over every network link, less latency. What it costs
is 2 log2(p / h) times all n bytes through the memory of a host. On one host it is a tree.
"""

import numpy as np

from minillm.distributed.comm import Communicator
from minillm.distributed.group import Group, hosts
from minillm.distributed.ring import ring
from minillm.distributed.steps import Steps
from minillm.distributed.tree import broadcast, reduce_to


def hierarchical(comm: Communicator, array: np.ndarray, ufunc: np.ufunc, tag: int) -> Steps[None]:
    """All-reduce (n,) in place."""
    of_host = hosts(comm)
    # The steps follow one another on every rank and between every two: one tag does for all.
    neighbours = Group(comm, next(ranks for ranks in of_host if comm.rank in ranks))
    yield from reduce_to(neighbours, array, ufunc, 0, tag)
    if neighbours.rank == 0:
        yield from ring(Group(comm, [ranks[0] for ranks in of_host]), array, ufunc, tag)
    yield from broadcast.within(neighbours, array, 0, tag)
