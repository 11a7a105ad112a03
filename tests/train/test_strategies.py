"""train.py on grids of ranks and with other strategies: one training, however it is spread."""

import json

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.train.run import open_run
from tests.programs import mpirun, python
from tests.train.test_train import TINY, parameters, text  # noqa: F401


def test_a_run_moves_from_grid_to_grid(tmp_path, text):  # noqa: F811
    """Killed on 2 x 2 ranks, gone on with on 3 with split state, ended on 2 stages: as on one."""
    args = ["--data", text, "--batch_size", 6, "--save_interval", 4, "--dtype", "float64", *TINY]
    args += ["--steps", 12, "--sharding", "permutation"]
    whole, parts, told = tmp_path / "whole", tmp_path / "parts", []
    assert python("train.py", *args, "--out", whole).returncode == 0
    for ranks, script, options in (
        (4, ["tests/train/scripts/stop_at.py", 5], [*args, "--tp", 2, "--pp", 2]),
        (3, ["tests/train/scripts/stop_at.py", 5],
         ["--resume", "--tp", 1, "--pp", 1, "--sync", "zero1"]),
        (2, ["train.py"], ["--resume", "--pp", 2, "--micro_batch_size", 2, "--sync", "naive"]),
    ):  # fmt: skip
        done = mpirun(ranks, *script, *options, "--out", parts)
        assert (done.returncode == 0) == (len(script) == 1), done.stderr
        told.append(done.stdout)
    assert "ranks    4 (tp 2, pp 2), " in told[0] and "ranks    3 (zero1), " in told[1]
    assert len({text.split("parameters")[0].split("model")[1] for text in told}) == 1
    assert "resumed at step 8" in done.stdout and "sync 'zero1' -> 'naive'" in done.stdout
    for name, array in parameters(whole, 12).items():
        np.testing.assert_allclose(parameters(parts, 12)[name], array, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        ["--sync", "local-sgd", "--local_steps", 3, "--participation", 0.5],
        ["--sync", "parameter-server", "--staleness", 2],
        ["--compress", "topk", "--topk_ratio", 0.1, "--balance", "static", "--sharding", "hash"],
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_what_is_not_exact_trains_too_and_resumes(tmp_path, text, options):  # noqa: F811
    out = tmp_path / "run"
    args = ["--data", text, "--steps", 30, "--batch_size", 8, "--learning_rate", 0.01, *TINY]
    args += ["--save_interval", 20, "--out", out, *options]
    stopped = mpirun(2, "tests/train/scripts/stop_at.py", 25, *args)
    assert stopped.returncode != 0
    done = mpirun(2, "train.py", "--resume", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 20" in done.stdout
    if "hash" in options:
        other = python("train.py", "--resume", "--out", out)
        assert other.returncode == 2 and "--dp 2" in other.stderr, other.stderr
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in records if "loss" in r]
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    for r in steps:  # only what was trained on is counted
        tokens = 4 * 16 if "--participation" in options else 8 * 16
        assert r["tokens_per_s"] * r["step_ms"] / 1e3 == pytest.approx(tokens)
    assert steps[0]["grad_norm"] > 0.8  # of a gradient at the start: not its mean with none


def test_no_checkpoint_of_what_is_not_finite(tmp_path, text):  # noqa: F811
    """Ranks that go each their own way compare notes every 50 steps here, but save every 5."""
    args = ["--data", text, "--out", tmp_path / "run", "--steps", 60, "--batch_size", 4, *TINY]
    args += ["--sync", "local-sgd", "--optimizer", "sgd", "--learning_rate", 1e9, "--min_lr", 0]
    args += ["--grad_clip", 0, "--log_interval", 50, "--eval_interval", 50, "--save_interval", 5]
    done = mpirun(2, "train.py", *args)
    assert done.returncode == 2 and "loss is nan" in done.stderr, done.stderr
    for folder in tmp_path.glob("run/checkpoints/*"):
        weights = parameters(tmp_path / "run", int(folder.name.partition("-")[2]))
        assert all(np.isfinite(array).all() for array in weights.values()), folder


@pytest.mark.parametrize(
    "ranks, options, words",
    [
        (4, ["--tp", "3"], "does not divide the 4 ranks"),
        (4, ["--dp", "3"], "dp 3 x tp 1 x pp 1 = 3, but there are 4 ranks"),
        (3, ["--tp", "3"], "tp 3 does not divide 4 heads"),
        (5, ["--pp", "5"], "pp 5 is more stages than the 4 layers"),
        (17, [], "leaves some without a sample"),
        (2, ["--tp", "2", "--sync", "parameter-server"], "needs --tp 1"),
        (2, ["--pp", "2", "--balance", "dynamic"], "needs --tp 1"),
        (2, ["--staleness", "2"], "--sync parameter-server alone"),
        (2, ["--participation", "0.5"], "--sync local-sgd alone"),
        (
            2,
            ["--sync", "local-sgd", "--participation", "0.5", "--balance", "dynamic"],
            "some do not train",
        ),
        (2, ["--participation", "0"], "above 0"),
        (2, ["--topk_ratio", "2"], "at most 1"),
        (2, ["--bucket_mb", "1e-9"], "at least a byte"),
        (2, ["--tp", "0"], "at least 1"),
        (2, ["--dp", "-1"], "not be negative"),
        (2, ["--watchdog", "-1"], "not be negative"),
    ],
)
def test_what_cannot_be_is_refused(ranks, options, words):
    with pytest.raises(UserError, match=words):
        open_run(options, ranks)


def test_a_bad_grid_is_refused_once_for_all_ranks(tmp_path):
    done = mpirun(3, "train.py", "--tp", 2, "--out", tmp_path / "run")
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
