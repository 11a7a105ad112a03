"""The table of measured all-reduces: kept, read again, refused with words if it makes no sense."""

import json
import platform
from math import inf

import pytest

from minillm import env
from minillm.distributed import run_threads, tuning
from minillm.distributed.allreduce import ALGORITHMS, choose


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(env, "CACHE", tmp_path)
    monkeypatch.setattr(env, "_said", set())
    return tmp_path / "allreduce.json"


def test_what_is_kept_is_read_again_by_layout_and_machine(cache, monkeypatch):
    assert tuning.load() == {}
    two, four = [(100.0, "doubling"), (inf, "ring")], [(inf, "halving")]
    tuning.save("2 ranks on 1 hosts", two)
    tuning.save("4 ranks on 1 hosts", four)
    assert tuning.load() == {"2 ranks on 1 hosts": two, "4 ranks on 1 hosts": four}
    monkeypatch.setattr(platform, "node", lambda: "another")
    assert tuning.load() == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"%s": 3}', '{"%s": {"x": [[1]]}}'])
def test_an_illegible_file_is_said_and_ignored(cache, text, capsys):
    cache.write_text(text.replace("%s", platform.node()))
    assert tuning.load() == {}
    assert capsys.readouterr().err.count("not legible") == 1


@pytest.mark.parametrize("table", [[], [[5, "ring"]], [[inf, "mpi"]], [[inf, "gone"]]])
def test_a_table_that_ends_early_or_names_none_of_ours_is_ignored(cache, table, capsys):
    cache.write_text(json.dumps({platform.node(): {"bad": table, "good": [[inf, "ring"]]}}))
    assert tuning.load() == {"good": [(inf, "ring")]}
    assert "bad" in capsys.readouterr().err


def test_measuring_gives_all_ranks_one_table(monkeypatch):
    monkeypatch.setattr(tuning, "_SIZES", [64, 256, 1024])
    monkeypatch.setattr(tuning, "_REPEATS", 3)

    def work(comm):
        comm.host_of = [0, 0, 1]
        return tuning.measure(comm), [choose(comm, n) for n in (0, 200, 1 << 40)]

    results = run_threads(3, work)
    table, chosen = results[0]
    assert results == [results[0]] * 3
    assert table[-1][0] == inf and set(chosen) <= set(ALGORITHMS)
    assert [most for most, _ in table] == sorted(most for most, _ in table)
