"""`minillm prove-ddp`: it proves what holds, and finds what does not."""

import json
import re
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from minillm.cli import proof_ranks, prove_ddp
from minillm.cli.checks.mpi import find_mpirun
from minillm.errors import UserError
from minillm.train.proof.cases import Case, Stage, cases
from minillm.train.proof.verdict import BAR, judge, largest_difference, load, replicas_differ
from minillm.train.proof.worker import Seen
from tests.programs import signalled

SCRIPTS = Path(__file__).with_name("scripts")


def names(ranks, dtype="float64", kind="exact"):
    return {(case.name, case.ranks) for case in cases(ranks, 20, dtype) if case.kind == kind}


# --- cases ----------------------------------------------------------------------------------------


def test_every_exact_way_is_tried():
    found = names((1, 2, 4))
    for sync in ("naive", "bucketed", "zero1", "parameter-server"):
        assert {(f"{sync}, micro-batches of 2", n) for n in "124"} <= found
    for model in ("GPT-2", "Llama"):
        assert {(f"{axis} 2, bucketed, {model}", "2") for axis in ("tp", "pp")} <= found
        for grid in ("tp 2 x pp 2", "tp 2 x dp 2", "pp 2 x dp 2"):
            assert any(n == "4" and c.startswith(grid) and model in c for c, n in found)
    assert {n for c, n in found if "resumed" in c} == {"1 -> 4", "4 -> 1", "4 -> 2"}
    assert {n for c, n in found if "balance" in c} == {"2", "4"}
    assert names((3,)) >= {("pp 3, bucketed, GPT-2", "3")}
    assert not any(re.search(r"tp [35]", c) for c, _ in names((3, 5)))  # 4 heads
    assert not names((1, 2), "float32")  # nothing to hold to the bar


def test_every_case_has_a_reference():
    found = cases((2, 3), 20, "float64")
    references = [case.what for case in found if case.kind == "reference"]
    assert all(case.what in references for case in found if case.kind in ("exact", "close"))
    assert all(stage.ranks == 1 for case in found if case.kind == "reference"
               for stage in case.stages)  # fmt: skip


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--ranks", "0"], "--ranks 0: give numbers above 0"),
        (["--ranks", "2", "11"], "--ranks 11: a step has 10 samples"),
        (["--steps", "1"], "--steps 1: must be at least 2"),
        (["--only", "horses"], "--only horses: no case is called so, but naive"),
        (["--out", "/nowhere/c.json"], "--out /nowhere/c.json: cannot write a file there"),
        (["--out", "/"], "--out /: cannot write a file there"),
    ],
)
def test_bad_input(argv, says):
    with pytest.raises(UserError, match=re.escape(says)):
        prove_ddp.main(argv)


def test_without_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(prove_ddp, "ROOT", tmp_path)
    with pytest.raises(UserError, match="no train.py beside the package"):
        prove_ddp.main([])


# --- verdicts -------------------------------------------------------------------------------------


def test_the_largest_difference_is_of_one_step_and_relative_to_all_parameters():
    theirs = {"a": np.ones((3, 2, 2)), "b": np.full((3, 5), -10.0)}
    ours = {name: array.copy() for name, array in theirs.items()}
    assert largest_difference(ours, theirs)[0] == 0
    ours["a"][1, 0, 1] += 1e-9
    ours["a"][2] += 1e-12
    difference, where = largest_difference(ours, theirs)
    assert difference == pytest.approx(1e-10) and where == "step 2, a"
    ours["b"][0, 0] = np.nan
    assert largest_difference(ours, theirs) == (np.inf, "step 1, b")


def test_missing_steps_and_parameters_are_no_agreement():
    arrays = {"a": np.ones((3, 2))}
    for other in ({}, {"b": np.ones((3, 2))}, {"a": np.ones((2, 2))}, {"a": np.ones((3, 3))}):
        assert largest_difference(other, arrays)[0] == np.inf


def test_only_arrays_that_several_ranks_hold_are_compared():
    step = [{"norm": "x", "up, share 0": "a"}, {"norm": "x", "up, share 1": "b"}]
    assert not replicas_differ([step, step])
    worse = [step[0], {"norm": "y", "up, share 1": "b"}]
    assert replicas_differ([step, worse]) == "step 2: rank 1 has other bits of norm"


@pytest.fixture
def left(tmp_path):
    """Writes what two ranks leave of a case: by rank, digests after each step."""
    what = {"steps": 3, "grad_clip": 0.0}
    case = Case("a case", "exact", what, (Stage(2, {}),))
    reference = replace(case, kind="reference", stages=(Stage(1, {}),))

    def write(name, *ranks, of=case):
        folder = tmp_path / name
        (folder / "stage-0").mkdir(parents=True)
        (folder / "run").mkdir()
        (folder / "run" / "metrics.jsonl").write_text('{"step": 3, "val_loss": 1.0}\n')
        np.savez(folder / "stage-0" / "parameters.npz", a=np.ones((3, 2)))
        for rank, digests in enumerate(ranks):
            seen = Seen([{"a": digest} for digest in digests], 30, (1, 1), (1, 1))
            (folder / "stage-0" / f"rank-{rank}.json").write_text(json.dumps(asdict(seen)))
        return load(folder, of)

    def verdict(*ranks):
        name = str(len(list(tmp_path.iterdir())))
        runs = [write(f"{name}-{again}", *ranks) for again in (0, 1)]
        one = write(f"{name}-one", "xyz", of=reference)
        return judge(case, runs, one)

    return case, reference, write, verdict


def test_what_is_not_there_proves_nothing(left):
    *_, verdict = left
    assert not verdict("xyz", "xyz").failed
    for ranks, why in {
        ("xyz",): "step 1: rank 1 had no parameters",  # on one rank, not on two
        ("xyz", "xy"): "step 3: rank 1 had no parameters",
        ("xy", "xy"): "2 steps were done, not 3",
        ("", ""): "0 steps were done, not 3",
    }.items():
        assert verdict(*ranks).failed and verdict(*ranks).note == why


def test_a_reference_that_does_not_train_fails(left):
    _, reference, write, _ = left
    stands = [write(name, "xyy", of=reference) for name in "ab"]
    assert judge(reference, stands, None).note == "step 3 has changed nothing"
    assert judge(reference, stands, None).failed


# --- the real thing -------------------------------------------------------------------------------


@pytest.fixture
def prove(tmp_path, capsys):
    """Runs the command; its exit code, what it printed, the cases of its certificate."""

    def call(*argv):
        code = prove_ddp.main([*argv, "--out", str(tmp_path / "certificate.json")])
        made = json.loads((tmp_path / "certificate.json").read_text())
        return code, capsys.readouterr().out, made["cases"]

    return call


def test_one_and_three_ranks(prove):
    only = ["zero1, micro", "pp 3", "balance", "bf16"]
    code, text, made = prove("--ranks", "1", "3", "--steps", "12", "--only", *only)
    assert code == 0, text
    exact = [case for case in made if case["kind"] == "exact"]
    names = {case["name"].split(",")[0] for case in exact}
    assert names == {"zero1", "pp 3", "dynamic balance"}
    assert {case["ranks"] for case in exact} == {"1", "3", "3 -> 1"}
    for case in exact:
        assert 0 <= case["difference"] <= BAR and case["replicas"] and not case["failed"]
        assert case["repeated"] or "balance" in case["name"]
    assert any(case["difference"] for case in exact)  # sums were made in another order
    assert re.search(r"shares \[3, 3, 4\] -> \[\d, [12], \d\]", text)  # rank 1 is slow
    assert re.search(r"^one process, GPT-2 .* clipped in [1-9]\d* of 12 steps$", text, re.M)
    (loss,) = (case for case in made if case["kind"] == "loss")
    assert loss["loss"] < 2 and 0 < loss["bytes_a_step"] < 60_000
    for words in ("machine  ", "numpy 2", "12 steps of 10 samples, float64"):
        assert words in text
    n = len(exact)
    assert text.rstrip().splitlines()[-1].startswith(f"proved: {n} of {n} exact cases, largest")


def test_what_is_broken_is_found(monkeypatch, prove):
    """What broken_worker.py does to each strategy; one process, or copy, is left whole."""
    monkeypatch.setattr(proof_ranks, "WORKER", [str(SCRIPTS / "broken_worker.py")])
    only = ["micro-batches", "balance", "bucketed, Llama"]
    code, text, made = prove("--ranks", "3", "--steps", "8", "--only", *only)
    assert code == 1 and "proved: 1 of 7 exact cases" in text
    case = {case["name"].removesuffix(", micro-batches of 2"): case for case in made}
    for name in ("one process, GPT-2", "one process, Llama", "pp 3, bucketed, Llama"):
        assert not case[name]["failed"]
    for name in ("naive", "zero1", "bucketed"):  # mean of means, forgotten tail, mixed tags
        assert case[name]["failed"] and case[name]["difference"] > 1e-6
    assert case["naive"]["replicas"] and case["zero1"]["replicas"]
    assert not case["bucketed"]["replicas"]
    drift, other = case["parameter-server"], case["bucketed, Llama"]
    assert drift["failed"] and drift["difference"] < BAR
    assert drift["note"].startswith("step 5: rank 1 has other bits of")
    assert other["failed"] and other["difference"] < BAR and other["replicas"]
    assert other["repeated"] is False
    crash = case["dynamic balance, rank 1 slow"]
    assert crash["failed"]
    assert crash["note"] == "rank 1 of 3 raised: RuntimeError: the roof is on fire"


@pytest.mark.parametrize("source, says", [
    ("raise SystemExit('no luck')", "1 ranks do not start: no luck; see"),
    ("import time; time.sleep(60)", "1 ranks do not start: no end within 1 s; see"),
])  # fmt: skip
def test_ranks_that_do_not_start(monkeypatch, tmp_path, source, says):
    script = tmp_path / "worker.py"
    script.write_text(source)
    monkeypatch.setattr(proof_ranks, "WORKER", [str(script)])
    monkeypatch.setattr(proof_ranks, "LIMIT", 1.0)
    with pytest.raises(UserError, match=re.escape(says)):
        list(proof_ranks.launch(1, Path("train.py"), [], tmp_path))


@pytest.mark.skipif(find_mpirun() is None, reason="no mpirun: pip install mpich")
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_no_rank_and_no_folder(tmp_path, number, code):
    def under_way(processes):
        return len(processes) >= 4  # itself, mpirun, and what that has started

    command = ["prove-ddp", "--ranks", "2", "--steps", "50", "--only", "tp 2, bucketed, GPT-2"]
    assert signalled(command, number, under_way, tmp_path) == (code, "")
