"""The bar on a terminal, and the lines anywhere else."""

import io
import re
import sys

import pytest

from minillm.train.progress import Progress, clock

METRICS = "loss 2.3456  1,234,567 tok/s  lr 2.00e-03  norm 12.34  mfu 56%  1,234 MB"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_and_metrics_fit_on_80_columns(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with Progress(600_000, 1000) as progress:
        progress.advance(300_000)
        progress.metrics(300_000, METRICS)
        progress.say("step 300000  validation loss 2.3456")
        progress.advance(600_000)
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", sys.stdout.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", shown)]
    assert METRICS in lines and "step 300000  validation loss 2.3456" in lines
    assert any(re.match(r"step 600000/600000 .* \d:\d\d:\d\d eta \d:\d\d:\d\d$", x) for x in lines)
    assert "…" not in shown


def test_lines_without_a_terminal(capsys):
    with Progress(10) as progress:
        progress.advance(5)
        progress.metrics(5, METRICS)
        progress.say("said")
    assert re.fullmatch(rf"step +5/10  {METRICS}  eta 0:00\nsaid\n", capsys.readouterr().out)


def test_other_ranks_are_silent(capsys):
    with Progress(10, show=False) as progress:
        progress.advance(5)
        progress.metrics(5, METRICS)
        progress.say("said")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (61.6, "1:02"), (3600, "1:00:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text
