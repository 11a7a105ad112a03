"""The program bench/gpu.py without a GPU: options, jobs, workers that fail, and what it writes.
The figures here are made up, and stay in the tests' folders."""

import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench import gpu, gpu_report, gpu_worker
from minillm.errors import UserError

ROOT = Path(__file__).parents[1]


def job(kernel, name, dtype):
    return {"what": "kernel", "kernel": kernel, "case": 0, "dtype": dtype, "name": name}


# --- workers --------------------------------------------------------------------------------------

WORKER = """
import os, sys, time
sys.path.insert(0, {root!r})
from bench import gpu_worker
broken = []
def run(job):
    print("noise on stdout")
    if job["do"] == "die": sys.stderr.write("last words\\n"); sys.stderr.flush(); os._exit(3)
    if job["do"] == "hang": time.sleep(60)
    if job["do"] == "break": broken.append(1)
    if job["do"] != "work": raise ValueError("no good\\nmore")
    return {{"pid": os.getpid()}}
gpu_worker.serve(run, lambda: bool(broken))
"""


def test_one_bad_job_costs_one_job(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER.format(root=str(ROOT)))
    todo = ["work", "fail", "work", "die", "work", "break", "work", "hang", "work"]
    answers = []
    left = gpu_worker.run_jobs(
        str(tmp_path / "worker.py"), [{"do": what} for what in todo],
        lambda job, answer: answers.append((job["do"], answer)), time.monotonic() + 60,
        patience=2.0, log=tmp_path / "log",
    )  # fmt: skip
    assert left == 0 and [what for what, _ in answers] == todo
    told = {what: answer["error"] for what, answer in answers if what != "work"}
    assert told == {
        "fail": "ValueError: no good / more",
        "die": "the process ended with 3: last words",
        "break": "ValueError: no good / more",
        "hang": "no answer within 2 s",
    }
    assert (tmp_path / "log").read_text().count("Traceback") == 2
    pids = [answer["pid"] for what, answer in answers if what == "work"]
    assert pids[0] == pids[1] and len(set(pids)) == 4  # a fresh worker after each that was lost


def test_what_is_out_of_time_is_left_out():
    left = gpu_worker.run_jobs("none.py", [{}, {}], lambda *a: None, time.monotonic() - 1)
    assert left == 2


# --- the program ----------------------------------------------------------------------------------


def test_options():
    options = gpu.parse(["--op", "layer_norm,gelu", "--against", "", "--parts", "kernels"])
    assert options.op == ("layer_norm", "gelu") and options.against == ()
    jobs = gpu.our_jobs(options)
    assert {j["what"] for j in jobs} == {"kernel"} and gpu.torch_jobs(options) == []
    assert jobs[0]["name"] == "reference"  # whose cost the others' rows are read with
    names = {(j["name"], j["dtype"]) for j in jobs}
    assert ("numba_gpu", "float32") in names and ("numba_gpu", "bfloat16") not in names
    assert not any(name.startswith("cpu") for name, _ in names)
    for wrong in (["--op", "layernorm"], ["--dtype", "float16"], ["--minutes", "0"]):
        with pytest.raises(UserError):
            gpu.parse(wrong)


def test_everything_is_compared_but_library_calls_are_not_compiled():
    jobs = gpu.torch_jobs(gpu.parse([]))
    names = {(j["kernel"], j["dtype"], j["name"]) for j in jobs}
    assert ("attention_forward", "bfloat16", "cudnn") in names
    assert ("attention_forward", "float32", "cudnn") not in names
    assert ("gelu_forward", "float32", "compile") in names
    assert ("matmul", "float32", "compile") not in names
    compiled = [j["name"].startswith("compile") for j in jobs]
    assert compiled == sorted(compiled)  # last, as they take longest
    assert len(gpu.step_jobs(gpu.parse([]), "folder")) == 6


def test_the_whole_program(tmp_path, monkeypatch, capsys):
    """Each worker gets its jobs, and what they answer is in the files, also after an error."""
    asked = []

    def run_jobs(script, jobs, done, deadline, log, environment=None, patience=0):
        for one in jobs:
            asked.append((script, one["name"] if "name" in one else one["what"]))
            done(one, {"error": "no GPU"})
        return 1

    monkeypatch.setattr(gpu, "run_jobs", run_jobs)
    monkeypatch.setattr(gpu, "torch_is_missing", lambda environment: "")
    monkeypatch.setattr(gpu, "describe", lambda argv: ("A GPU", ["Kernels on A GPU, 2000-01-01"]))
    out = ["--op", "softmax", "--dtype", "bfloat16", "--out", f"{tmp_path}/found.txt"]
    assert gpu.main(out) == 0
    scripts = [script for script, _ in asked]
    steps = [name for script, name in asked if script == "gpu_step.py"]
    assert steps == ["minillm", "torch", "compile"]  # the first one draws the weights
    assert scripts[0] == "gpu_kernels.py" and asked[-1] == ("gpu_torch.py", "compile")
    text = (tmp_path / "found.txt").read_text()
    assert text in capsys.readouterr().out and not (tmp_path / "found.svg").exists()
    assert "softmax_backward  N=16384 C=4096  bfloat16" in text and "failed: no GPU" in text
    assert "6 measurements left out" in text  # 1 of each of the 6 calls
    assert len(json.loads((tmp_path / "found.json").read_text())["cases"]) == 2


def test_without_a_gpu_it_says_so():
    done = subprocess.run(
        [sys.executable, "bench/gpu.py"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if "finds no usable GPU" not in done.stderr and "needs CuPy" not in done.stderr:
        pytest.skip("there is a GPU")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


# --- what it writes: figures of no machine --------------------------------------------------------


@pytest.fixture
def made_up(tmp_path):
    """A Run fed with answers of every kind."""
    run = gpu.Run(["Kernels on a made-up GPU, 2000-01-01"], tmp_path / "deep/kernels")
    rates = {"bytes_per_second": 4e12, "megabytes": 256, "way": "kernel"}
    product = {"dtype": "bfloat16", "size": 4096, "flops_per_second": 5e14}
    limits = {"copy": 4e12, "gemm": {"bfloat16": 5e14}, "copies": [rates], "products": [product]}
    run.kernel({"what": "limits"}, limits)
    launches = {"Program.launch": {"host_us": 5.0, "gpu_us": 2.0}, "Numba": "ImportError: none"}
    run.kernel({"what": "launches"}, launches)
    time_ = {"seconds": 1e-4, "p20": 9e-5, "p80": 2e-4, "calls": 9, "queued": True}
    cost = {"bytes": 2 * 10**8, "flops": 10**6}
    ours = {**time_, **cost, "max_error": 1e-3}
    run.kernel(job("softmax_forward", "v1_naive", "bfloat16"), {**ours, "wrong": "output 0: bad"})
    run.kernel(job("softmax_forward", "v2_warp", "bfloat16"), {**ours, "queued": False})
    run.kernel(job("softmax_forward", "numba_gpu", "bfloat16"), {"error": "OutOfMemoryError: big"})
    run.kernel(job("softmax_forward", "torch", "bfloat16"), {**time_, "seconds": 2e-4})
    step = {**time_, "steps": 9, "batch": 8, "tokens_per_second": 1e5, "peak_bytes": 10**10}
    ask = {"name": "minillm", "dtype": "bfloat16"}
    run.step(ask, {**step, "first_losses": [10.8, 10.7, 10.6]})
    run.step({**ask, "name": "torch"}, {"error": "it died"})
    return run


def test_the_table(made_up):
    text = (made_up.base.parent / "kernels.txt").read_text()
    assert "limits: copy 4,000 GB/s (read and written together), bfloat16 matmul 500.0" in text
    assert "softmax_forward  N=16384 C=4096  bfloat16  (200 MB, 0.0 GFLOP)" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "2000.0 GB/s" in rows["v2_warp"] and "50.0% of copy" in rows["v2_warp"]
    assert re.search(r"\(0.0900 - 0.2000\) +w ", rows["v2_warp"])
    assert "error 1e-03!" in rows["v1_naive"] and "! output 0: bad" in text
    assert "25.0% of copy" in rows["torch"] or "torch      bfloat16  failed: it died" in text
    assert "failed: OutOfMemoryError: big" in rows["numba_gpu"]
    assert "5.00 us" in text and "Numba" in text
    assert "10.0 GB   10.8000 10.7000 10.6000" in text


def test_the_fastest_product_is_the_limit(made_up):
    shape = {"kernel": "matmul", "case": 0, "dtype": "bfloat16"}
    timed = {"p20": 1.0, "p80": 1.0, "queued": True, "calls": 1}
    made_up.kernel(
        {**shape, "name": "reference"}, {"seconds": 1.0, "bytes": 1, "flops": 8 * 10**14, **timed}
    )
    made_up.kernel({**shape, "name": "torch"}, {"seconds": 1.0, **timed})
    assert made_up.result["limits"]["gemm"] == {"bfloat16": 8e14}


def test_the_json_and_the_picture(made_up, tmp_path):
    kept = json.loads((made_up.base.parent / "kernels.json").read_text())
    assert kept == json.loads(json.dumps(made_up.result)) and kept["machine"]["cpu"]
    found = gpu_report.bars(made_up.result, "bfloat16")
    assert found == [
        ("softmax_forward", {"ours, CUDA C++": pytest.approx(0.5), "PyTorch eager": 0.25})
    ]
    assert gpu_report.picture(made_up.result, tmp_path / "bars.svg")
    assert ElementTree.parse(tmp_path / "bars.svg").getroot().tag.endswith("svg")


def test_without_limits_there_are_times_and_no_picture(made_up, tmp_path):
    made_up.result["limits"] = {"error": "no"}
    assert "limits: no" in gpu_report.text(made_up.result)
    assert not gpu_report.picture(made_up.result, tmp_path / "none.svg")
