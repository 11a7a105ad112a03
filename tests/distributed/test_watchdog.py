"""Diagnosis from what ranks say; the watchdog on real ranks that hang, die, or call another."""

import re
import socket
import threading
import time

import pytest

from minillm.distributed import SingleProcess
from minillm.distributed.diagnosis import PATIENCE, SILENT, WORK, diagnose, table
from minillm.distributed.link import Link
from minillm.distributed.observer import Observer
from minillm.distributed.stragglers import _LOOKS, Stragglers
from minillm.distributed.watchdog import Watchdog
from tests.programs import mpirun

SECONDS = 5.0


def rank_in(*calls, blocked=None, still=0.0, busy="", label=""):
    """What a rank says; calls are (number, what); it is in the last if blocked."""
    said = [[label, number, what, f"train.py:{number} main"] for number, what in calls]
    return {
        "calls": said, "in": said[-1] if blocked else None, "blocked": blocked,
        "where": "train.py:9 main: time.sleep(99)", "still": still, "busy": busy,
    }  # fmt: skip


def found(states, silent=None, gone=()):
    states = dict(enumerate(states))
    quiet = {rank: (silent or {}).get(rank, 0.1) for rank in states}
    verdict = diagnose(states, quiet, list(gone), SECONDS)
    assert table(states, quiet, len(states)).count("\n") == len(states)
    return verdict


SUM = 17, "all_reduce of (10,) float32"


def test_all_is_well():
    assert found([rank_in(SUM), rank_in(SUM, blocked=[0, 4.0]), rank_in()]) is None


def test_a_rank_that_hangs_is_named_through_the_chain_of_those_that_wait():
    states = [
        rank_in(SUM, blocked=[1, 6.0]), rank_in(SUM, blocked=[2, 5.9]),
        rank_in((16, "barrier"), still=6.1), rank_in(SUM, blocked=[0, 5.0]),
    ]  # fmt: skip
    verdict = found(states)
    assert (verdict.kind, verdict.ranks) == ("late", [2])
    assert verdict.line == (
        "rank 2 is not in all_reduce #17 of (10,) float32, where ranks 0, 1 and 3 wait:"
        " it stands at train.py:9 main: time.sleep(99) for 6.1 s"
    )


def test_slow_is_not_hung():
    waits = rank_in(SUM, blocked=[1, SECONDS + 1])
    assert found([waits, rank_in(still=1.0)]) is None
    assert found([waits, rank_in(still=99.0, busy="saving")]) is None
    ages = rank_in(SUM, blocked=[1, max(SECONDS * PATIENCE, WORK) + 1])
    assert found([ages, rank_in(still=0.0)]).ranks == [1]
    assert "busy saving" in found([ages, rank_in(still=99.0, busy="saving")]).line


def test_short_limits_leave_time_to_compile():
    """Rank 0 compiled for 20 s on a loaded machine, under --watchdog 2."""
    compiles = rank_in(still=0.0)
    for waited, blamed in ((WORK - 1, None), (WORK + 1, [0])):
        states = {0: compiles, 1: rank_in((14, "barrier"), blocked=[0, waited])}
        verdict = diagnose(states, {0: 0.1, 1: 0.1}, [], 2.0)
        assert (verdict and verdict.ranks) == blamed


def test_a_silent_rank_is_to_blame_whatever_it_said_before():
    states = [rank_in(SUM, blocked=[1, 6.0]), rank_in(SUM, blocked=[0, 0.1], still=0.1)]
    verdict = found(states, {1: 6.0})
    assert verdict.ranks == [1] and "does not go on in all_reduce #17" in verdict.line
    assert "it is silent for 6.0 s" in verdict.line
    assert found(states, {1: 2.0}) is None


def test_a_short_silence_is_a_loaded_core():
    """Of a rank that loads libraries on a crowded machine, under --watchdog 2."""
    states = {0: rank_in(SUM, blocked=[1, 4.0]), 1: rank_in()}
    assert diagnose(states, {0: 0.1, 1: 2.5}, [], 2.0) is None
    assert diagnose(states, {0: 0.1, 1: SILENT}, [], 2.0).ranks == [1]


def test_ranks_that_wait_for_one_another():
    states = [rank_in(SUM, blocked=[1, 6.0]), rank_in(SUM, blocked=[0, 5.5]), rank_in()]
    verdict = found(states)
    assert (verdict.kind, verdict.ranks) == ("deadlock", [0, 1])
    assert "rank 0 waits for rank 1 in all_reduce #17" in verdict.line
    assert found(states, {1: 1.1}) is None  # it may have gone on
    # One has gone on meanwhile, and the other's news of it are still to come.
    states[1] = rank_in(SUM, (18, "barrier"), blocked=[0, 0.1])
    assert found(states) is None


def test_who_is_elsewhere_in_a_deadlock_is_to_blame():
    """As with overlapped sums: those of rank 2 go on only once it has left the barrier."""
    there, elsewhere = (
        rank_in(SUM, blocked=[2, 2.1]),
        rank_in(SUM, (18, "barrier"), blocked=[0, 2.1]),
    )
    assert found([there, rank_in(), elsewhere]).ranks == [0, 2]
    assert found([there, rank_in(SUM, blocked=[0, 0.1]), elsewhere]).ranks == [2]
    verdict = found([there, rank_in(SUM, blocked=[2, 2.1]), elsewhere])
    assert (verdict.kind, verdict.ranks) == ("deadlock", [2])
    assert verdict.line == (
        "rank 2 is in barrier #18 (train.py:18 main), but ranks 0 and 1 wait in"
        " all_reduce #17 of (10,) float32 (train.py:17 main): for one another"
    )


def test_messages_without_a_collective():
    states = [rank_in(SUM, blocked=[1, 6.0]), rank_in(SUM, still=6.0)]
    states[0]["in"] = None
    assert "does not go on in an exchange of messages, where" in found(states).line


def test_mpis_own_collectives_do_not_say_for_whom():
    waits = rank_in(SUM, blocked=[None, 6.0])
    assert found([waits, waits, rank_in(still=7.0)]).ranks == [2]


@pytest.mark.parametrize("what", ["all_reduce of (11,) float32", "barrier", "broadcast of (10,) f"])
def test_another_collective_under_the_same_number(what):
    same, other = rank_in(SUM, blocked=[1, 0.1]), rank_in((17, what), blocked=[0, 0.1])
    verdict = found([same, other, same])
    assert (verdict.kind, verdict.ranks) == ("mismatch", [1])
    assert f"rank 1 is in {what} (train.py:17 main)" in verdict.line
    assert "ranks 0 and 2 are in all_reduce of (10,) float32" in verdict.line
    assert found([same, other]).ranks == [0, 1]
    assert found([same, same]) is None


def test_the_first_mismatch_counts_and_groups_count_for_themselves():
    ahead = rank_in(SUM, (18, "barrier"), (19, "barrier"), blocked=[1, 0.1])
    behind = rank_in((17, "barrier"), (18, "broadcast of (1,) int64"), blocked=[0, 0.1])
    assert "#17" in found([ahead, behind]).line
    left, right = rank_in((1, "barrier"), label="1:0,2;"), rank_in(SUM[:1] + ("x",), label="1:1,3;")
    assert found([left, right]) is None


def test_a_rank_that_is_gone():
    verdict = found([rank_in(), rank_in(still=1.0)], gone=[1])
    assert (verdict.kind, verdict.ranks) == ("gone", [1])
    assert verdict.line == (
        "rank 1 is gone, killed or crashed; 0.1 s ago it stood at train.py:9 main:"
        " time.sleep(99) for 1.0 s"
    )


def test_an_observer_tells_standing_still_from_working():
    observer = Observer(SingleProcess())
    observer.state()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert observer.state()["still"] == 0.0
    assert "test_watchdog.py" in observer.state()["where"]


def test_who_is_let_go_no_longer_stands_still():
    """Else a rank that has just come out of a long wait is blamed: others seem to be in it yet."""
    comm, told = SingleProcess(), []
    observer = Observer(comm)

    def look():
        time.sleep(0.5)  # until the main thread waits for this one
        for blocked in ((1, 0.0), (1, 0.0), (1, 0.0), None):
            comm.flight.blocked = blocked
            told.append(observer.state()["still"])
            time.sleep(0.1)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert told[2] >= 0.1 and told[3] == 0


def test_an_observer_names_the_line_of_the_program_not_the_librarys():
    observer, told = Observer(SingleProcess()), []
    waits = threading.Condition()

    def look():
        time.sleep(0.1)
        observer.state()
        time.sleep(0.4)
        told.append(observer.state())
        with waits:
            waits.notify()

    threading.Thread(target=look).start()
    with waits:
        waits.wait(10)
    (state,) = told
    assert state["where"].startswith("tests/distributed/test_watchdog.py:")
    assert "(in threading.py:" in state["where"] and "waits.wait(10)" in state["where"]
    assert 0.3 < state["still"] < 5


def looks(stragglers, ends):
    """What is said while rank 0 waits for these ranks, one a look."""
    said = []
    for number, end in enumerate(ends):
        states = {rank: rank_in((number, "barrier")) for rank in range(3)}
        if end is not None:
            states[0]["blocked"] = [end, 0.1]
        said.append(stragglers.look(states))
    return [words for words in said if words]


def test_a_straggler_is_named_once():
    (words,) = looks(Stragglers(), [2, 2, 1, 2] * _LOOKS)
    assert words.startswith("rank 2 is slow")


def test_waits_that_even_out_name_nobody():
    assert looks(Stragglers(), [1, 2] * _LOOKS) == looks(Stragglers(), [1, None, None] * 50) == []


def test_one_long_wait_is_one_look():
    stragglers, state = Stragglers(), {0: rank_in(SUM, blocked=[1, 1.0]), 1: rank_in(SUM)}
    assert not any(stragglers.look(state) for _ in range(3 * _LOOKS))


def test_a_link_never_waits_and_keeps_messages_whole():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = Link(socket.create_connection(server.getsockname()))
        theirs = Link(server.accept()[0])
    big, got = {"words": "x" * 300_000}, []
    for _ in range(200):
        ours.send(big)  # far more than the connection holds: most are left out
    deadline = time.monotonic() + 10
    while {"last": 1} not in got and time.monotonic() < deadline:
        got += theirs.receive()
        ours.send({"last": 1})
    assert got[0] == big and got[-1] == {"last": 1} and 2 <= len(got) < 200
    ours.finish()
    while not theirs.ended and time.monotonic() < deadline:
        got += theirs.receive()
    assert theirs.ended and got[-1] == {"left": True}


def test_alone_there_is_nothing_to_watch():
    with Watchdog(SingleProcess(), 1.0) as dog, dog.busy("saving"):
        assert dog._thread is None


# --- real ranks -----------------------------------------------------------------------------------


def watched(ranks, how, bad, seconds=1.5):
    """Exit code, stderr without what the launcher adds, seconds from the fault to the end."""
    args = how, bad, seconds
    done = mpirun(ranks, "tests/distributed/scripts/watchdog.py", *args, limit=60)
    fault = re.search(r"fault at (.*)", done.stdout)
    took = time.time() - float(fault[1]) if fault else 0.0
    return done.returncode, done.stderr, took, done.stdout


@pytest.mark.parametrize("ranks, how", [(2, "none"), (3, "work"), (4, "busy")])
def test_no_alarm(ranks, how):
    code, err, _, out = watched(ranks, how, 1, 2.5)
    assert code == 0 and out.endswith("ok\n") and not err, err


def test_no_alarm_after_all_were_stopped_for_a_while():
    """As by Slurm's suspend. Rank 1 waits, rank 0 sleeps, both for longer than the watchdog has."""
    code, err, took, out = watched(2, "suspend", 0, 2.0)
    assert code == 0 and out.endswith("ok\n") and not err and took > 6, err


@pytest.mark.parametrize(
    "ranks, how, bad, code, says",
    [
        (3, "hang", 1, 1, r"rank 1 is not in all_reduce #\d+ of \(1000,\) float64, where .* wait:"
         r" it stands at tests/distributed/scripts/watchdog.py:\d+ <module>: time.sleep\(600\)"),
        (2, "hang", 0, 1, r"rank 0 is not in all_reduce"),
        (4, "stop", 2, 1, r"rank 2 .*it is silent for"),
        (3, "stop", 0, 1, r"rank 0 .*it is silent for"),
        (3, "kill", 2, 9, r"rank 2 is gone"),
        (3, "wait for a message", 1, 1, r"rank 1 is in an exchange of messages \(.*comm.recv"),
        (4, "skip", 0, 1, r"not the same on all ranks: rank 0 is in barrier \(.*watchdog.py:\d+"),
        (2, "shape", 1, 1, r"not the same .*rank 1 is in all_reduce of \(900,\) float64"),
        (2, "raise", 1, 1, r"rank 1 of 2 raised:"),
        (2, "refuse", 1, 1, r"no such file; give --data"),
    ],
)  # fmt: skip
def test_an_alarm_names_the_rank_and_ends_all(ranks, how, bad, code, says):
    got, err, took, _ = watched(ranks, how, bad)
    assert got == code and re.search(says, err), err
    assert err.count("watchdog:") == (how not in ("raise", "refuse")), err
    assert took < 1.5 + 10
