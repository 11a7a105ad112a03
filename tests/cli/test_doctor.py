"""The doctor on this machine, and in front of each thing that it should recognise: fake launchers
that hang, refuse, or start ranks that do not know of each other."""

import json
import os
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from minillm.cli import doctor
from minillm.cli.checks import Finding, gpu, machine, mpi
from minillm.cli.checks.gpu import GPUState, judge, judge_cuda_cpp
from minillm.cli.checks.process import run, user_environment

ROOT = Path(__file__).parents[2]
REAL = mpi.find_mpirun()
needs_mpi = pytest.mark.skipif(REAL is None, reason="no mpirun: pip install mpich")

OPEN_MPI = 'if [ "$1" = --version ]; then echo "mpirun (Open MPI) 5.0.11"; exit; fi\n'
REFUSES_ROOT = 'echo "prterun has detected an attempt to run as root." >&2; exit 1\n'
REFUSES_FOUR = (
    'if [ "$2" = 4 ]; then echo "There are not enough slots available" >&2; exit 1; fi\n'
    f'exec {REAL} "$@"\n'
)
EACH_ALONE = 'shift 2; "$@" & "$@" & wait\n'
# Deaf to polite requests, with one child in the group and one that has left it.
HANGS = (
    'trap "" TERM\nsleep 600 & echo $! >>PIDS\n'
    "setsid sleep 600 & echo $! >>PIDS\necho $$ >>PIDS\nwait\n"
)


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """Puts a fake mpirun beside a stand-in for this Python."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    def write(script: str) -> None:
        mpirun = tmp_path / "mpirun"
        mpirun.write_text("#!/bin/sh\n" + script)
        mpirun.chmod(0o755)

    return write


def named(findings: list[Finding], subject: str) -> Finding:
    return next(finding for finding in findings if finding.subject == subject)


@needs_mpi
def test_this_machine_is_ready():
    command = [sys.executable, "-m", "minillm.cli", "doctor", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=150, env=user_environment()
    )
    findings = [Finding(**finding) for finding in json.loads(done.stdout)]
    assert done.returncode == 0, done.stdout
    assert re.search(r"two ranks summed 1 MB in [\d.]+ ms", named(findings, "all-reduce").what)
    assert named(findings, "four ranks").status == "ok"
    assert all(finding.status == "ok" or finding.fix for finding in findings)


def test_report_and_exit_code(monkeypatch, capsys):
    bad = Finding("FAIL", "mpirun", "not found", "pip install mpich")
    monkeypatch.setattr(doctor, "checks", lambda: [lambda: [bad]])
    assert doctor.main([]) == 1
    assert "FAIL  mpirun       not found\n" in (out := capsys.readouterr().out)
    assert "fix: pip install mpich" in out and "1 to fix" in out
    monkeypatch.setattr(doctor, "checks", lambda: [lambda: Finding("warn", "gpu", "none", "x")])
    assert doctor.main([]) == 0


def test_launcher_missing(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = named(mpi.check_mpi(30), "mpirun")
    assert found.status == "FAIL" and found.fix.endswith("-m pip install mpich")


def test_launcher_refuses_root(launcher):
    launcher(OPEN_MPI + REFUSES_ROOT)
    findings = mpi.check_mpi(30)
    assert "does not belong to mpi4py's" in named(findings, "mpirun").what
    assert named(findings, "all-reduce").fix == (
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    )


@needs_mpi
def test_launcher_refuses_four_ranks(launcher):
    launcher(OPEN_MPI + REFUSES_FOUR)
    found = named(mpi.check_mpi(60), "four ranks")
    assert found.status == "FAIL"
    assert found.fix == "export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"
    assert mpi.slots_fix(4) == "export OMPI_MCA_rmaps_base_oversubscribe=1"


def test_ranks_alone(launcher):
    launcher(EACH_ALONE)
    found = named(mpi.check_mpi(60), "all-reduce")
    assert "thinks it is alone" in found.what
    assert "install --force-reinstall --no-deps mpi4py mpich" in found.fix


def test_launcher_hangs_and_nothing_is_left(launcher, tmp_path):
    pids = tmp_path / "pids"
    launcher(
        'if [ "$1" = --version ]; then echo HYDRA; echo "Version: 5.0"; exit; fi\n'
        + HANGS.replace("PIDS", str(pids))
    )
    began = time.monotonic()
    finding = mpi.check_all_reduce(str(tmp_path / "mpirun"), "MPICH", True, 5, seconds=1)
    assert time.monotonic() - began < 10
    assert "no result within 1 s" in finding.what and finding.fix.startswith("export HYDRA_IFACE")
    left = [pid for pid in pids.read_text().split() if is_alive(pid)]
    assert len(pids.read_text().split()) == 3 and not left


@needs_mpi
def test_real_ranks_that_hang_are_ended(tmp_path):
    code = f"import os, time; open('{tmp_path}/' + str(os.getpid()), 'w'); time.sleep(600)"
    began = time.monotonic()
    outcome = run([REAL, "-n", "2", sys.executable, "-c", code], seconds=3)
    assert outcome.code is None and time.monotonic() - began < 15
    pids = os.listdir(tmp_path)
    assert len(pids) == 2 and not any(is_alive(pid) for pid in pids)


def is_alive(pid: str) -> bool:
    """Running, and not a zombie that its new parent has yet to collect."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True


def test_library_does_not_load(monkeypatch):
    monkeypatch.setenv("MPI4PY_LIBMPI", "/nowhere/libmpi.so")
    finding, vendor = mpi.check_library(30)
    assert finding.status == "FAIL" and vendor == "" and "mpich" in finding.fix


def test_families():
    assert mpi.same_family("MPICH", "Intel MPI") and not mpi.same_family("MPICH", "Open MPI")
    assert mpi.same_family("Open MPI", "unknown") and not mpi.same_family("Open MPI", "MPICH")


def test_packages_are_those_of_setup():
    text = (ROOT / "setup.py").read_text()
    required = re.search(r"install_requires=\[(.*?)\]", text, re.DOTALL).group(1)
    assert set(re.findall(r'"([\w-]+)>=', required)) == set(machine.PACKAGES)


def test_package_missing(monkeypatch):
    def version(name):
        if name == "pooch":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(machine.metadata, "version", version)
    monkeypatch.setattr(machine, "PACKAGES", {"numpy": "numpy", "pooch": "pooch"})
    (found,) = machine.check_packages()
    assert found.status == "FAIL" and found.fix.endswith("-m pip install pooch")


def test_numba_and_numpy_do_not_match():
    error = "ImportError: Numba needs NumPy 2.4 or less. Got NumPy 2.5."
    assert machine.import_fix("numba", error).endswith("install 'numpy<2.5'")
    assert machine.import_fix("rich", "ImportError: x").endswith("--no-deps rich")
    missing = "ModuleNotFoundError: No module named 'llvmlite'"
    assert machine.import_fix("numba", missing).endswith("install llvmlite")


def test_threads():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert machine.check_threads({}).status == "ok"
    assert machine.check_threads({"OMP_NUM_THREADS": "1"}).status == "ok"
    found = machine.check_threads({"OMP_NUM_THREADS": str(cores + 1)})
    assert found.status == "warn" and found.fix == "unset OMP_NUM_THREADS"


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    found = machine.check_folder("cache", tmp_path / "file/below", "export MINILLM_CACHE=/tmp/x")
    assert found.status == "FAIL" and found.fix == "export MINILLM_CACHE=/tmp/x"
    assert machine.check_folder("cache", tmp_path / "new", "").status in ("ok", "warn")
    assert not list((tmp_path / "new").iterdir())


CUPY12 = {"cupy-cuda12x": "14.0"}
PAIR12 = {**CUPY12, "numba-cuda": "0.30", "cuda-bindings": "12.9.1"}


@pytest.mark.parametrize(
    "state, status, what, fix",
    [
        (GPUState(False, None, {}), "ok", "no GPU, CPU only", ""),
        (GPUState(False, None, CUPY12), "ok", "installed but unused", ""),
        (GPUState(True, None, {}), "warn", "no driver", "ubuntu-drivers"),
        (GPUState(True, 11080, {}), "warn", "CUDA 11.8", "ubuntu-drivers"),
        (GPUState(True, 12080, {}), "warn", "CuPy is not installed", "[cuda12]"),
        (GPUState(True, 13000, {}), "warn", "CuPy is not installed", "[cuda13]"),
        (
            GPUState(True, 13000, {**CUPY12, "cupy-cuda13x": "14.0"}),
            *("warn", "overwrite each other", "uninstall -y cupy-cuda12x cupy-cuda13x"),
        ),
        (
            GPUState(True, 12080, {"cupy-cuda13x": "14.0"}),
            *("warn", "needs CUDA 13", "uninstall -y cupy-cuda13x"),
        ),
        (GPUState(True, 12080, PAIR12, "", "no libcublas"), "warn", "no libcublas", "[cuda12]"),
        (GPUState(True, 12080, PAIR12, "H100"), "ok", "with cuda-bindings 12.9.1", ""),
        (
            GPUState(True, 13000, {**PAIR12, "cuda-bindings": "13.0.3"}, "H100"),
            *("warn", "cuda-bindings 13.0.3 beside a CuPy for CUDA 12", "numba-cuda[cu12]"),
        ),
        (GPUState(True, 12080, CUPY12, "H100"), "warn", "not installed", "numba-cuda[cu12]"),
    ],
)
def test_gpu(state, status, what, fix):
    last = judge(state)[-1]
    assert last.status == status and what in last.what and fix in last.fix
    assert bool(last.fix) == (status != "ok")


BINDINGS = {"cuda-bindings": "13.0.3"}
BROKEN = dict(nvrtc_error="libnvrtc.so.13 is missing")


@pytest.mark.parametrize(
    "state, status, what, fix",
    [
        (
            GPUState(False, None, BINDINGS, nvrtc="13.0.88", arch="sm_80"),
            *("ok", "NVRTC 13.0.88 compiles the .cu files for sm_80; g++ runs them on the CPU", ""),
        ),
        (
            GPUState(True, 13000, PAIR12, "H100", nvrtc="13.0.88", arch="sm_90a", emulator=False),
            *("ok", "for sm_90a; no g++ to run them on the CPU", ""),
        ),
        (GPUState(False, None, {}, **BROKEN), "ok", "not installed; g++ runs them", ""),
        (GPUState(False, None, {}, **BROKEN, emulator=False), "ok", "not installed; no g++", ""),
        (GPUState(False, None, BINDINGS, **BROKEN), "warn", "libnvrtc.so.13", "[toolkit]"),
        (GPUState(True, 12080, PAIR12, "H100", **BROKEN), "warn", "for H100: lib", "[cuda12]"),
        (GPUState(True, 14000, BINDINGS, "H100", **BROKEN), "warn", "for H100: lib", "[cuda13]"),
    ],
)
def test_cuda_cpp(state, status, what, fix):
    found = judge_cuda_cpp(state)
    assert found.status == status and what in found.what and fix in found.fix
    assert bool(found.fix) == (status != "ok")


def test_nvrtc_of_this_machine(monkeypatch):
    pytest.importorskip("cuda.bindings.nvrtc")
    found = named(gpu.check_gpu(), "CUDA C++")
    assert found.status == "ok" and re.search(
        r"NVRTC 1\d\.\d+[\d.]* compiles .* sm_\d+", found.what
    )
    monkeypatch.setattr(gpu, "_NVRTC", gpu._NVRTC.replace('"sm_80"', '"sm_999"'))
    state = gpu.look()
    assert state.name or "does not compile for sm_999, only for sm_" in state.nvrtc_error
