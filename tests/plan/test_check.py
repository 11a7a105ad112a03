"""`bench/plan_check.py` refuses what it cannot measure."""

import pytest

from bench import plan_check


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--steps", "3"], "--steps above 3"),
        (["--rounds", "0"], "--ranks and --rounds must be at least 1"),
        (["--save", "../a"], "--save ../a: give a name, not a path"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_bad_input_is_one_line(argv, says, capsys):
    assert plan_check.main(argv) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
