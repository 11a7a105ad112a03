"""`bench/plan_check.py`: what it refuses, and how it sees that others use the machine."""

from itertools import count

import pytest

from bench import plan_check


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--steps", "3"], "--steps above 3"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--patience", "nan"], "--patience at least 0"),
        (["--save", "../a"], "--save ../a: give a name, not a path"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_bad_input_is_one_line(argv, says, capsys):
    assert plan_check.main(argv) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


@pytest.fixture
def machine(monkeypatch):
    """A machine of 2 cores on which time passes when a test says so, and others do what it says."""

    class Machine:
        now = others = mine = 0.0
        load = 0.0  # cores that others use

        def work(self, seconds=10.0):
            self.now += seconds
            self.others += self.load * seconds
            self.mine += 2.0 * seconds
            return self.now

    fake = Machine()
    monkeypatch.setattr(plan_check.time, "perf_counter", lambda: fake.now)
    monkeypatch.setattr(plan_check.time, "sleep", lambda seconds: fake.work(seconds) and None)
    monkeypatch.setattr(plan_check, "busy", lambda: fake.others + fake.mine)
    monkeypatch.setattr(plan_check, "own", lambda: fake.mine)
    monkeypatch.setattr(plan_check.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    return fake


def test_an_idle_machine_is_measured_once(machine):
    machine.load = 0.1
    assert plan_check.Quiet(100.0)(machine.work) == (12.0, pytest.approx(0.05))


def test_a_run_that_others_disturb_is_repeated(machine):
    calls = count(1)

    def work():
        machine.load = 1.0 if next(calls) == 1 else 0.0
        result = machine.work()
        machine.load = 0.0
        return result

    assert plan_check.Quiet(100.0)(work) == (24.0, 0.0) and next(calls) == 3


def test_patience_ends(machine):
    """It waits for 50 seconds, then takes what it gets and says what others had."""
    machine.load = 2.0
    quiet = plan_check.Quiet(50.0)
    assert quiet(machine.work) == (60.0, 1.0) and quiet.patience <= 0
    assert quiet(machine.work) == (70.0, 1.0)


def test_our_own_time_is_not_that_of_others():
    began, mine = plan_check.busy(), plan_check.own()
    while plan_check.own() < mine + 0.3:
        pass
    assert plan_check.busy() - began > 0.2
