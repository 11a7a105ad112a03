"""The fit, what is kept, and a calibration on one rank and on two."""

import json
import os
import time

import numpy as np
import pytest

from minillm import env
from minillm.distributed import SingleProcess
from minillm.errors import UserError
from minillm.plan import calibrated
from minillm.plan import calibration as module
from tests.programs import ROOT, mpirun


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(env, "CACHE", tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "SHAPES", ((1, 8, 8, 1), (1, 16, 8, 2)))
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "_step", lambda *shape: lambda: time.sleep(1e-4))
    monkeypatch.setattr(module, "measure_peak", lambda device, dtype: 1e10)


def test_a_step_trains(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.05)
    step = module._step(1, 8, 8, 1)
    (seconds,) = module._by_turns([step])
    assert 0 < seconds < 5


def test_the_fit_finds_the_rates_that_made_the_times():
    works = [module._work(*shape) for shape in module.SHAPES]
    for truth in ((8e9, 2e9, 5e-5), (3e10, 1e10, 1e-5)):
        times = np.array([work.seconds(*truth) for work in works])
        assert module._fit(works, times, 5e10) == pytest.approx(truth, rel=1e-6)


def test_the_fit_never_goes_below_zero():
    works = [module._work(*shape) for shape in module.SHAPES]
    times = np.array([work.flops / 1e10 - 20e-6 * work.kernels for work in works])
    products, memory_rate, overhead = module._fit(works, np.abs(times) + 1e-6, 1e10)
    assert products > 0 and memory_rate > 0 and overhead >= 0


def test_one_rank_measures_its_cores_and_keeps_the_links_known_before(cache, quick):
    with pytest.raises(UserError, match="not measured yet: mpirun -n 2 minillm plan --calibrate"):
        calibrated()
    first = module.calibrate(SingleProcess())
    assert first.inside is None and first.cores and first.overlap == 0
    assert calibrated() == first
    path = cache / "plan.json"
    kept = json.loads(path.read_text())
    (entry,) = kept.values()
    entry["inside"] = dict(latency=1e-5, bandwidth=1e9, adding=1e-10)
    path.write_text(json.dumps(kept))
    assert module.calibrate(SingleProcess()).inside == module.Link(1e-5, 1e9, 1e-10)


@pytest.mark.parametrize("text", ["{", "[]", '{"x": 1}', '{"NODE": {"name": "a"}}'])
def test_a_damaged_file_is_as_none(cache, capsys, text):
    (cache / "plan.json").write_text(text.replace("NODE", module.platform.node()))
    with pytest.raises(UserError, match="not measured yet"):
        calibrated()


def test_more_ranks_than_cores_are_refused():
    module._refuse_crowds(2, 2)
    with pytest.raises(UserError, match="--calibrate with 3 ranks on 2 cores .* mpirun -n 2"):
        module._refuse_crowds(3, 2)


def test_two_ranks_measure_the_link_between_them(tmp_path):
    script = tmp_path / "links.py"
    script.write_text(
        "from minillm.distributed import world\n"
        "from minillm.plan.calibration import _links\n"
        "comm = world()\n"
        "link, other = _links(comm, True), _links(comm, False)\n"
        "assert other is None and 1e7 < link.bandwidth\n"
        "assert 0 < link.latency < 0.1 and 0 < link.adding < 1e-7\n"
        "print('fine')\n"
    )
    done = mpirun(2, script)
    assert done.returncode == 0 and done.stdout.count("fine") == 2, done.stderr


def test_a_crowd_is_refused_once():
    ranks = (os.cpu_count() or 1) + 1
    if ranks > 8:
        pytest.skip("as many processes as cores and one more are too many to start here")
    done = mpirun(ranks, ROOT / "minillm/cli/__main__.py", "plan", "--calibrate")
    assert done.returncode != 0 and done.stderr.count("would measure how they take turns") == 1
