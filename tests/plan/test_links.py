"""What collectives cost."""

import pytest

from minillm.plan.links import Group, Link

FAST, SLOW = Link(1e-6, 1e11), Link(1e-5, 1e10)


@pytest.mark.parametrize("p", [2, 3, 4, 7, 64])
def test_the_ring_is_what_ring_py_says(p):
    n = 1e8
    want = 2 * (p - 1) / p * n / FAST.bandwidth + 2 * (p - 1) * FAST.latency
    assert FAST.ring(p, n) == pytest.approx(want)
    assert FAST.ring(p, n) == FAST.reduce_scatter(p, n) + FAST.all_gather(p, n)


def test_halving_and_doubling_are_what_doubling_py_says():
    p, n, rounds = 16, 1e6, 4
    assert SLOW.doubling(p, n) == pytest.approx(rounds * (SLOW.latency + n / SLOW.bandwidth))
    want = 2 * rounds * SLOW.latency + 2 * (p - 1) / p * n / SLOW.bandwidth
    assert SLOW.halving(p, n) == pytest.approx(want)
    two_messages = 2 * SLOW.send(n)
    assert SLOW.doubling(17, n) == pytest.approx(SLOW.doubling(16, n) + two_messages)
    assert SLOW.halving(17, n) == pytest.approx(SLOW.halving(16, n) + two_messages)


def test_few_bytes_double_and_many_go_around():
    assert SLOW.all_reduce(8, 8) == SLOW.doubling(8, 8) < SLOW.halving(8, 8) < SLOW.ring(8, 8)
    assert SLOW.all_reduce(7, 1e9) == SLOW.ring(7, 1e9)
    assert SLOW.all_reduce(8, 1e9) == SLOW.halving(8, 1e9)


def test_one_rank_talks_to_nobody():
    for collective in (SLOW.all_reduce, SLOW.reduce_scatter, SLOW.all_gather, SLOW.broadcast):
        assert collective(1, 1e9) == 0
    alone = Group(1, 1, FAST, SLOW)
    assert alone.all_reduce(1e9) == alone.all_gather(1e9) == alone.broadcast(1e9) == 0


def test_adding_costs_what_is_received():
    adds = Link(0.0, 1e10, 1e-9)
    assert adds.ring(4, 1e6) == pytest.approx(Link(0.0, 1e10).ring(4, 1e6) + 0.75e6 * 1e-9)
    assert adds.all_gather(4, 1e6) == Link(0.0, 1e10).all_gather(4, 1e6)


def test_a_tree_is_as_deep_as_it_must_be():
    assert SLOW.broadcast(8, 1e6) == pytest.approx(3 * SLOW.send(1e6))
    assert SLOW.broadcast(9, 1e6) == pytest.approx(4 * SLOW.send(1e6))


def test_two_levels_send_a_share_between_nodes():
    group, n = Group(8, 4, FAST, SLOW), 1e9
    inside = FAST.reduce_scatter(8, n) + FAST.all_gather(8, n)
    assert group.all_reduce(n) == pytest.approx(inside + SLOW.all_reduce(4, n / 8))
    assert group.all_reduce(n) < Group(1, 32, FAST, SLOW).all_reduce(n)
    assert group.all_reduce(n) == pytest.approx(
        group.reduce_scatter(n) + group.all_gather(n), rel=1e-3
    )
    assert group.send(n) == SLOW.send(n) and Group(8, 1, FAST, SLOW).send(n) == FAST.send(n)
