"""Real ranks under mpirun: collectives, training, and every way for a run to end badly."""

import subprocess
import sys
import time

import numpy as np
import pytest

from minillm.distributed import SingleProcess
from tests.distributed.ddp_scenario import train
from tests.programs import environment, mpirun


def ranks_run(ranks, script, *args):
    """Exit code, stdout and stderr of a script on real ranks."""
    done = mpirun(ranks, f"tests/distributed/scripts/{script}", *args, limit=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_collectives(ranks):
    assert ranks_run(ranks, "collectives.py") == (0, "ok\n", "")


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_all_reduces(ranks, tmp_path):
    assert ranks_run(ranks, "algorithms.py", tmp_path) == (0, "ok\n", "")


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_training_equals_one_process(ranks, tmp_path):
    code, _, err = ranks_run(ranks, "ddp.py", tmp_path / "params.npy")
    assert code == 0, err
    params = np.load(tmp_path / "params.npy")
    assert all(p.tobytes() == params[0].tobytes() for p in params)
    np.testing.assert_allclose(params[0], train(SingleProcess()), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "how, code, says",
    [
        ("raise", 1, "rank 2 of 3 raised:\nTraceback"),
        ("thread", 1, "ZeroDivisionError"),
        ("exit", 1, "rank 2 has ended"),
        ("interrupt", 130, "rank 2 of 3 interrupted"),
        ("die", 9, ""),
        ("refuse", 1, "no such file; give --data"),
    ],
)
def test_one_failing_rank_ends_all(how, code, says):
    began = time.monotonic()
    got, _, err = ranks_run(3, "fail.py", how)
    assert time.monotonic() - began < 10
    assert got == code and says in err


def test_ctrl_c_ends_all_without_tracebacks():
    began = time.monotonic()
    code, _, err = ranks_run(3, "fail.py", "ctrl-c")
    assert time.monotonic() - began < 10
    assert code and "of 3 interrupted" in err and "Traceback" not in err


def test_a_refusal_of_all_is_one_line():
    assert ranks_run(4, "fail.py", "all refuse") == (2, "", "minillm: no such file; give --data\n")


def test_a_refusal_of_one_is_printed_when_nobody_waits_for_it():
    says = "minillm: rank 1 of 2: no such file; give --data\n"
    assert ranks_run(2, "fail.py", "refuse unheard") == (2, "", says)


def alone(code, **environ):
    """Run `code` without a launcher."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment() | environ,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_without_a_launcher_mpi_stays_out():
    code = (
        "import sys; from minillm.distributed import world; c = world();"
        "print(c.rank, c.size, 'mpi4py' in sys.modules, world() is c)"
    )
    assert alone(code) == (0, "0 1 False True\n", "")


def test_without_a_launcher_errors_look_as_usual():
    code = "from minillm.distributed import world; world(); {}['x']"
    status, _, err = alone(code)
    assert status == 1 and err.startswith("Traceback") and err.endswith("KeyError: 'x'\n")


def test_ctrl_c_without_a_launcher_is_one_line():
    code = "from minillm.distributed import world; world(); raise KeyboardInterrupt"
    assert alone(code) == (130, "", "minillm: interrupted\n")


@pytest.mark.parametrize("rank, lines", [("0", 1), ("1", 0)])
def test_launcher_and_mpi4py_that_do_not_match(rank, lines):
    pytest.importorskip("mpi4py")
    code = "from minillm.distributed import world; world()"
    status, out, err = alone(code, OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK=rank)
    assert (status, out, err.count("\n")) == (2, "", lines)
    if lines:
        assert "4 processes" in err and "mpirun" in err


def test_launcher_without_mpi4py():
    code = (
        "import sys; sys.modules['mpi4py'] = None\nfrom minillm.distributed import world; world()"
    )
    status, _, err = alone(code, PMI_SIZE="2", PMI_RANK="0")
    assert status == 2 and err.count("\n") == 1 and "mpi4py does not load" in err


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_gpu_aware_mpi(ranks, monkeypatch):
    monkeypatch.setenv("MINILLM_GPU_AWARE_MPI", "1")
    assert ranks_run(ranks, "gpu_aware.py", "proven") == (0, "ok\n", "")


@pytest.mark.parametrize("how, says", [("", "no CUDA support"), ("wrong", "other values")])
def test_gpu_aware_mpi_is_refused_where_it_does_not_work(how, says, monkeypatch):
    monkeypatch.setenv("MINILLM_GPU_AWARE_MPI", "1")
    code, out, err = ranks_run(3, "gpu_aware.py", *[how][: bool(how)])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err and "unset it" in err
