"""Messages noted on the way: none missing, none invented, the collectives none the wiser."""

import time

import numpy as np
import pytest

from minillm.distributed import all_reduce, broadcast, run_threads, split
from minillm.distributed.clocks import Offsets, measure_offsets, to_rank_0
from minillm.distributed.messages import Message, Messages, gather, pairs
from tests.programs import mpirun


def noted(ranks, work):
    """What `work(comm)` returns and every rank's messages; bytes agree with the communicator's."""

    def rank(comm):
        messages = Messages(comm)
        before = comm.bytes_sent
        messages.recording = True
        result = work(messages)
        messages.recording = False
        sent = sum(m.nbytes for m in messages.noted if m.sends)
        assert sent == comm.bytes_sent - before == messages.bytes_sent - before
        return result, messages.noted

    done = run_threads(ranks, rank)
    return [r for r, _ in done], [m for _, m in done]


@pytest.mark.parametrize("algorithm", ["ring", "halving", "doubling", "hierarchical"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_send_has_its_receive(ranks, algorithm):
    def work(comm):
        array = np.arange(1001.0) * (comm.rank + 1)
        for _ in range(3):  # exchanges are kept for the next call
            all_reduce(comm, array, algorithm=algorithm)
        comm.barrier()
        return array.tobytes()

    results, messages = noted(ranks, work)
    assert len(set(results)) == 1
    both = pairs(messages)
    assert 2 * len(both) == sum(map(len, messages))
    for source, send, dest, receive in both:
        assert (send.peer, receive.peer, send.tag) == (dest, source, receive.tag)
        assert send.began <= receive.ended
        for end in (send, receive):
            assert end.began <= (end.waited or end.began) <= end.ended
            assert end.used is None or end.used >= end.ended


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_ring_has_2_p_minus_1_messages_a_rank(ranks):
    n = 12 * ranks
    _, messages = noted(ranks, lambda c: all_reduce(c, np.ones(n), algorithm="ring"))
    for own in messages:
        assert [m.nbytes for m in own if m.sends] == [96] * (2 * (ranks - 1))


def test_messages_of_groups_are_those_of_all_ranks():
    def work(comm):
        row = split(comm, comm.rank % 2)
        array = np.full(5, comm.rank)
        broadcast(row, array)
        return array[0]

    results, messages = noted(4, work)
    assert results == [0, 1, 0, 1]
    assert {m.peer for m in messages[3]} == {0, 1, 2}  # split asks all, broadcast rank 1
    assert len(pairs(messages)) * 2 == sum(map(len, messages))


def test_nothing_is_noted_unless_recording():
    def work(comm):
        messages = Messages(comm)
        all_reduce(messages, np.ones(9))
        return messages.noted, messages.bytes_sent == comm.bytes_sent > 0

    assert run_threads(3, work) == [([], True)] * 3


def test_one_of_two_ends_is_left_out_and_a_wrong_length_is_refused():
    send, other = Message(True, 1, 0, 8, 0, 0.0), Message(True, 1, 5, 8, 0, 0.0)
    assert pairs([[send, other], [Message(False, 0, 0, 8, 0, 0.0)]])[0][1] is send
    with pytest.raises(ValueError, match="rank 0 sends 8 bytes, rank 1 receives 9"):
        pairs([[send], [Message(False, 0, 0, 9, 0, 0.0)]])


REAL = """
import gc
import numpy as np
from minillm.distributed import all_reduce, world
from minillm.distributed.messages import Messages, gather, pairs

def run(comm):
    comm.recording = True
    before = comm.bytes_sent
    for algorithm in ("doubling", "halving", "ring"):
        for _ in range(3):
            array = np.ones(1001)
            all_reduce(comm, array, algorithm=algorithm)
            assert (array == comm.size).all()
    comm.recording = False
    assert sum(m.nbytes for m in comm.noted if m.sends) == comm.bytes_sent - before > 0
    everyone = gather(comm, comm.noted)
    if comm.rank == 0:
        both = pairs(everyone)
        assert 2 * len(both) == sum(map(len, everyone))
        assert all(send.began <= receive.ended for _, send, _, receive in both)
        print("ok")

run(Messages(world()))
world().flight.calls.clear()
gc.collect()  # it is gone before the program ends, and MPI has nothing to complain of
"""


@pytest.mark.parametrize("ranks", [2, 3])
def test_real_ranks(ranks, tmp_path):
    (tmp_path / "script.py").write_text(REAL)
    done = mpirun(ranks, tmp_path / "script.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_is_gathered_is_in_order(ranks):
    got = run_threads(ranks, lambda comm: gather(comm, {"rank": comm.rank}))
    assert got == [[{"rank": r} for r in range(ranks)]] + [[]] * (ranks - 1)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_threads_have_one_clock(ranks):
    got = run_threads(ranks, measure_offsets)
    assert got.count(got[0]) == ranks
    assert got[0].ahead == [0.0] * ranks and all(e > 0 for e in got[0].error[1:])


def test_a_clock_that_is_ahead(monkeypatch):
    import threading

    true = time.perf_counter

    def ahead():
        return true() + (5.0 if threading.current_thread().name == "rank 1" else 0.0)

    monkeypatch.setattr(time, "perf_counter", ahead)
    offsets = run_threads(3, measure_offsets)[0]
    assert offsets.ahead[1] == pytest.approx(5.0, abs=offsets.error[1] + 1e-9)
    assert offsets.ahead[2] == 0.0 and 0 < offsets.error[1] < 1


def test_offsets_between_two_measurements_lie_on_a_line():
    first, last = Offsets(10.0, [0.0, 1.0], [0, 0]), Offsets(20.0, [0.0, 2.0], [0, 0])
    assert to_rank_0(0, first, last, 13.0) == 13.0
    for seconds, true in ((11.0, 10.0), (16.5, 15.0), (22.0, 20.0), (9.9, 9.0)):
        assert to_rank_0(1, first, last, seconds) == pytest.approx(true)
