"""Groups: ranks counted anew, messages kept apart, collectives inside; which ranks share a host."""

import numpy as np
import pytest

from minillm.distributed import (
    Group,
    SingleProcess,
    all_gather,
    all_reduce,
    broadcast,
    hosts,
    run_threads,
    split,
)
from minillm.distributed.comm import TAGS
from minillm.distributed.steps import Progress
from minillm.errors import UserError


def test_collectives_stay_inside():
    def work(comm):
        group = split(comm, color=comm.rank % 2)
        total, everyone = np.array([comm.rank]), np.zeros(group.size, int)
        all_reduce(group, total)
        everyone[group.rank] = comm.rank
        all_gather(group, everyone)
        group.barrier()
        first = np.array([comm.rank])
        broadcast(group, first, root=group.size - 1)
        return int(total[0]), everyone.tolist(), int(first[0])

    even, odd = (6, [0, 2, 4], 4), (4, [1, 3], 3)
    assert run_threads(5, work) == [even, odd, even, odd, even]


def test_key_orders_the_ranks():
    ranks = run_threads(4, lambda comm: split(comm, 0, key=-(comm.rank // 2)).ranks)
    assert ranks == [[2, 3, 0, 1]] * 4
    assert run_threads(4, lambda comm: split(comm, 0, key=-comm.rank).ranks) == [[3, 2, 1, 0]] * 4


def test_a_grid_of_ranks_with_all_axes_under_way_at_once():
    """2 x 2 x 2 ranks; planes share pairs of ranks, so only their tags keep messages apart."""

    def work(comm):
        z, y, x = comm.rank // 4, comm.rank // 2 % 2, comm.rank % 2
        planes = [split(comm, color) for color in (z, y, x)]
        lines = [split(plane, comm.rank % 2) for plane in planes[:2]]
        progress, arrays = Progress(), []
        for turn, group in enumerate([comm, *planes, *lines]):
            array = np.full(3, comm.rank + 1 + turn)
            group_order = [comm.rank] if group is comm else group.ranks
            arrays.append((array, turn, range(8) if group is comm else group_order))
            progress.start(all_reduce.steps(group, array, algorithm="ring"))
        progress.wait()
        for array, turn, members in arrays:
            assert (array == sum(rank + 1 + turn for rank in members)).all()
        return [group.context for group in planes + lines], [line.ranks for line in lines]

    results = run_threads(8, work)
    assert all(contexts == [1, 2, 3, 4, 5] for contexts, _ in results)
    assert results[5][1] == [[5, 7], [1, 5]]


def test_ranks_with_different_histories_agree_on_a_context():
    def work(comm):
        half = split(comm, comm.rank // 2)
        if comm.rank < 2:
            for _ in range(3):
                split(half, 0)
        return half.context, split(comm, 0).context

    assert run_threads(4, work) == [(1, 5)] * 4


def test_messages_do_not_meet_those_of_the_parent():
    def work(comm):
        group = split(comm, 0)
        peer = 1 - comm.rank
        outside, inside = np.zeros(1), np.zeros(1)
        requests = [comm.irecv(outside, peer), group.irecv(inside, peer)]
        requests += [group.isend(np.full(1, 2.0), peer), comm.isend(np.full(1, 1.0), peer)]
        for request in requests:
            request.wait()
        return outside[0], inside[0], group.bytes_sent

    assert run_threads(2, work) == [(1.0, 2.0, 8)] * 2


def test_hosts():
    def work(comm):
        comm.host_of = [7, 3, 7, 3, 9]
        group = Group(comm, [4, 3, 1]) if comm.rank in (4, 3, 1) else None
        return hosts(comm), group and hosts(group), comm.layout

    whole = [[0, 2], [1, 3], [4]]
    assert run_threads(5, work)[4] == (whole, [[0], [1, 2]], "5 ranks on 3 hosts")
    assert hosts(SingleProcess()) == [[0]]


def test_splits_are_as_many_as_there_are_tags_for():
    def work(comm):
        comm.most_tag = 32767  # what every MPI grants
        for _ in range(32768 // TAGS - 1):
            split(comm, 0)
        split(comm, 0)

    with pytest.raises(UserError, match="tags for 7 splits"):
        run_threads(2, work)


def test_abort_takes_all_down():
    def work(comm):
        group = split(comm, comm.rank // 2)
        if comm.rank == 3:
            group.abort(5)
        comm.barrier()

    with pytest.raises(RuntimeError, match="rank 3 of 4 aborted with code 5"):
        run_threads(4, work)
