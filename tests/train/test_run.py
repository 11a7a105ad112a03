"""Choosing a run's folder."""

import pytest

from minillm.errors import UserError
from minillm.train.run import create_folder, open_run


def test_a_folder_taken_by_a_run_that_began_at_the_same_moment_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = open_run(["--steps", "7"], 1), open_run(["--steps", "8"], 1)
    create_folder(first)
    with pytest.raises(UserError, match="File exists.*choose another --out"):
        create_folder(second)
    assert '"steps": 7' in (tmp_path / "runs/quick/config.json").read_text()
    assert str(open_run([], 1).out) == "runs/quick-2"
    create_folder(open_run(["--out", "runs/quick"], 1))  # named: it is the user's to begin anew
