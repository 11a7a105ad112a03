"""kill -9 at random moments, over and over: the run resumes, and ends where it would have."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
from safetensors.numpy import load_file

from minillm.train import checkpoint
from tests.programs import ROOT, environment, python

ARGS = [
    "--tokenizer", "byte", "--block_size", "16", "--n_layer", "1", "--n_head", "2", "--n_embd",
    "16", "--batch_size", "2", "--schedule", "constant", "--eval_interval", "5000",
    "--eval_batches", "1", "--log_interval", "50", "--sample_tokens", "0", "--dropout", "0.1",
]  # fmt: skip
KILLS = 20


def test_killed_twenty_times(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be killed at any moment, and yet to end as if nothing had been. " * 40)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rng = random.Random(7)
    kills = 0
    steps = []
    command = [sys.executable, ROOT / "train.py"]
    start = [
        *command,
        *ARGS,
        "--data",
        text,
        "--out",
        killed,
        "--steps",
        4000,
        "--save_interval",
        1,
    ]
    while kills < KILLS:
        resume = [*command, "--resume", "--out", killed]
        process = subprocess.Popen(
            list(map(str, resume if checkpoint.checkpoints(killed) else start)),
            cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        before = checkpoint.checkpoints(killed)
        while checkpoint.checkpoints(killed) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL, err.decode()
        kills += 1
        steps.append(checkpoint.load(killed).step)
    assert steps == sorted(steps) and steps[0] < steps[-1]
    end = str(steps[-1] + 3)
    assert python("train.py", "--resume", "--out", killed, "--steps", end).returncode == 0
    args = ["--data", text, "--out", whole, "--steps", end]
    assert python("train.py", *ARGS, *args).returncode == 0
    a, b = (load_file(checkpoint.load(p).path / "model.safetensors") for p in (whole, killed))
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
