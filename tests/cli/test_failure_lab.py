"""`minillm failure-lab`: bad input, and some faults for real, the killed run resumed."""

import os
import re
import signal
import threading
import time

import pytest

from minillm.cli import failure_lab
from minillm.cli.checks.mpi import find_mpirun
from minillm.cli.failure_lab import FAULTS, differences
from minillm.cli.faults import Faulty
from minillm.cli.launched import Launched
from minillm.errors import UserError
from tests.programs import minillm, signalled


def test_list(capsys):
    assert failure_lab.main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FAULTS)


def test_every_fault_is_documented_and_can_happen():
    for name, fault in FAULTS.items():
        assert f"\n    {name} " in failure_lab.__doc__
        assert callable(getattr(Faulty, name.replace("-", "_")))
        re.compile(fault.report.format(rank=1, ranks=3))


@pytest.mark.parametrize(
    "argv, says",
    [
        (["flood"], "no fault 'flood': choose killed, "),
        (["hung", "--ranks", "1"], "--ranks 1"),
        (["--timeout", "0.2"], "--timeout 0.2"),
        (["--timeout", "nan"], "--timeout nan"),
    ],
)
def test_bad_input(argv, says):
    with pytest.raises(UserError, match=re.escape(says)):
        failure_lab.main(argv)


def test_a_resumed_run_is_compared_with_the_killed_one():
    before = {step: 1 / step for step in range(1, 8)}
    good = {step: 1 / step for step in range(1, 12)}
    assert not differences(before, {**good, 5: 0.2 * (1 + 1e-5)}, 11, 2)
    for wrong in ({**good, 6: 0.17}, {s: v for s, v in good.items() if s != 4}, {5: 0.2}):
        assert differences(before, wrong, 11, 2)[0].startswith("--resume on 2 ranks: ")
    assert differences({1: 1.0}, good, 11, 2)  # nothing to compare with


MPIRUN = find_mpirun()


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun: pip install mpich")
def test_a_report_that_names_another_rank_is_kept():
    lines = "".join(f"minillm: watchdog: rank {rank} is gone\n" for rank in (0, 1))
    program = ["-c", f"import sys; sys.stderr.write({lines!r})"]
    seen = Launched(MPIRUN, 1, program, re.compile("rank 1 is gone"))
    assert seen.reported and seen.wrong == "rank 0 is gone" and not seen.problems


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun: pip install mpich")
def test_ctrl_c_leaves_no_rank(tmp_path):
    pid, threads = tmp_path / "pid", threading.active_count()
    hangs = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(99)"

    def interrupt(*_):
        raise KeyboardInterrupt

    def interrupt_once_it_hangs():
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            threading.Thread(target=interrupt_once_it_hangs, daemon=True).start()
            Launched(MPIRUN, 1, ["-c", hangs], None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    deadline = time.monotonic() + 5
    while _lives(int(pid.read_text())) or threading.active_count() > threads:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun: pip install mpich")
def test_sigterm_leaves_no_rank_and_no_folder(tmp_path):
    def a_rank_hangs(processes):
        return bool(list(tmp_path.glob("*/mark")))

    command = ["failure-lab", "hung", "--timeout", "60"]
    assert signalled(command, signal.SIGTERM, a_rank_hangs, tmp_path) == (143, "")


def test_some_faults_are_found_and_the_killed_run_goes_on():
    names = ["killed", "mismatched-collective", "mismatched-shape", "flipped-bit"]
    done = minillm("failure-lab", *names, "--timeout", "2", limit=280)
    rows = done.stdout.split("\n\n")[-1].splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row.split()[0] for row in rows[1:]] == names
    assert all(row.endswith("passed") for row in rows[1:])
    assert "resumed on 2 ranks" in done.stdout and "resumed on 4 ranks" in done.stdout


def test_a_run_that_is_not_as_expected_fails(monkeypatch, capsys):
    other = FAULTS["raising"].__class__("an exception", "rank {rank} sings", 3)
    monkeypatch.setitem(FAULTS, "raising", other)
    assert failure_lab.main(["raising", "--ranks", "2"]) == 1
    out = capsys.readouterr().out
    assert "no report that names the rank; exit code 1, not 3" in out
