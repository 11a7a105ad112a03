"""`minillm failure-lab`: bad input, and some faults for real, the killed run resumed."""

import re

import pytest

from minillm.cli import failure_lab
from minillm.cli.failure_lab import FAULTS
from minillm.cli.faults import Faulty
from minillm.errors import UserError
from tests.programs import minillm


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
    ],
)
def test_bad_input(argv, says):
    with pytest.raises(UserError, match=re.escape(says)):
        failure_lab.main(argv)


def test_some_faults_are_found_and_the_killed_run_goes_on():
    names = ["killed", "mismatched-collective", "flipped-bit"]
    done = minillm("failure-lab", *names, "--timeout", "2", limit=400)
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
