"""Python and its packages, compiler, BLAS and threads, memory, folders: all but MPI and the GPU."""

import json
import os
import platform
import re
import shutil
import sys
import uuid
from importlib import metadata
from pathlib import Path

import numpy as np

from minillm.cli.checks import PIP, Finding
from minillm.cli.checks.process import THREAD_VARIABLES, run, user_environment

# Distribution and the module it brings; the same list as install_requires in setup.py.
PACKAGES = {
    "matplotlib": "matplotlib",
    "ml-dtypes": "ml_dtypes",
    "mpi4py": "mpi4py",
    "numba": "numba",
    "numpy": "numpy",
    "pooch": "pooch",
    "rich": "rich",
    "safetensors": "safetensors",
    "threadpoolctl": "threadpoolctl",
    "tokenizers": "tokenizers",
    "tyro": "tyro",
}

_IMPORT_ALL = """
import importlib, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""

_COMPILE = """
import numpy as np
from numba import njit
total = njit(lambda x: x.sum())(np.ones(8, np.float32))
assert total == 8, total
"""


def check_python() -> Finding:
    """Which interpreter this is. One older than 3.10 does not come this far."""
    return Finding("ok", "python", f"{platform.python_version()}, {sys.executable}")


def check_packages() -> list[Finding]:
    """Every core package is there and can be imported (in another process: one may crash)."""
    versions, missing = {}, []
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    findings = []
    if missing:
        fix = f"{PIP} install {' '.join(missing)}"
        findings.append(Finding("FAIL", "packages", f"not installed: {', '.join(missing)}", fix))
    outcome = run([sys.executable, "-c", _IMPORT_ALL, *(PACKAGES[n] for n in versions)], 120)
    if outcome.code != 0:
        what = f"importing them crashes: {outcome.last_line}"
        fix = f"{PIP} install --force-reinstall {' '.join(PACKAGES)}"
        return [*findings, Finding("FAIL", "packages", what, fix)]
    failed = json.loads(outcome.output)
    for name in versions:
        if error := failed.get(PACKAGES[name]):
            findings.append(Finding("FAIL", name, error, import_fix(name, error)))
    if not findings:
        what = ", ".join(f"{name} {version}" for name, version in versions.items())
        findings.append(Finding("ok", "packages", what))
    return findings


def import_fix(name: str, error: str) -> str:
    """The pip command for a package that does not import."""
    if missing := re.search(r"No module named '(\w+)", error):
        return f"{PIP} install {missing.group(1)}"
    limit = re.search(r"Numba needs NumPy (\d+)\.(\d+) or (less|greater)", error)
    if limit is None:
        return f"{PIP} install --force-reinstall --no-deps {name}"
    major, minor, way = limit.groups()
    bound = f"<{major}.{int(minor) + 1}" if way == "less" else f">={major}.{minor}"
    return f"{PIP} install 'numpy{bound}'"


def check_numba() -> Finding:
    """Numba compiles a function for this processor and this NumPy."""
    outcome = run([sys.executable, "-c", _COMPILE], 120)
    if outcome.code == 0:
        return Finding(
            "ok", "numba", f"compiles and runs ({outcome.seconds:.1f} s with its import)"
        )
    what = "did not finish in 120 s" if outcome.code is None else outcome.last_line
    fix = import_fix("numba llvmlite", outcome.error)
    return Finding("FAIL", "numba", f"cannot compile: {what}", fix)


def check_compiler() -> Finding:
    """A C++ compiler, which only the CPU emulator of the CUDA kernels needs."""
    path = shutil.which("g++") or shutil.which("clang++")
    if path is not None:
        outcome = run([path, "--version"], 20)
        if outcome.code == 0:
            return Finding("ok", "compiler", f"{path}: {outcome.output.splitlines()[0]}")
    installers = {
        "apt-get": "sudo apt-get install g++",
        "dnf": "sudo dnf install gcc-c++",
        "pacman": "sudo pacman -S gcc",
        "zypper": "sudo zypper install gcc-c++",
        "apk": "apk add g++",
        "brew": "xcode-select --install",
    }
    fix = next((f for tool, f in installers.items() if shutil.which(tool)), "install g++")
    what = "no working g++: CUDA kernels cannot be emulated on the CPU; training does not need it"
    return Finding("warn", "compiler", what, fix)


def check_threads(variables: dict[str, str] | None = None) -> Finding:
    """Which BLAS, and whether the user's thread variables suit the cores.

    Args:
        variables: the user's environment; None reads it.
    """
    variables = user_environment() if variables is None else variables
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    chosen = {k: v for k, v in variables.items() if k in THREAD_VARIABLES}
    said = ", ".join(f"{k}={v}" for k, v in chosen.items()) or "thread variables unset"
    what = f"{blas_name()}, {cores} cores, {said}"
    too_many = [k for k, v in chosen.items() if v.isdigit() and int(v) > cores]
    if too_many:
        fix = f"unset {' '.join(too_many)}"
        return Finding("warn", "threads", f"{what}: more threads than cores fight for them", fix)
    if any(v != "1" for v in chosen.values()) and cores > 1:
        fix = f"unset {' '.join(chosen)}"
        what += ": every rank of mpirun will take that many, instead of its share of the cores"
        return Finding("warn", "threads", what, fix)
    return Finding("ok", "threads", what)


def blas_name() -> str:
    """The BLAS library that NumPy was built with, and its version."""
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown BLAS')} {blas.get('version', '')}".strip()


def check_memory() -> Finding:
    """Free memory for four ranks of the default preset, about 300 MB each with their libraries."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return Finding("ok", "memory", "cannot tell on this system")
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    free, total = kilobytes["MemAvailable"] / 1e6, kilobytes["MemTotal"] / 1e6
    what = f"{free:.1f} of {total:.1f} GB free"
    if free >= 1.2:
        return Finding("ok", "memory", what)
    fix = "mpirun -n 1 python train.py  # or end other programs"
    return Finding("warn", "memory", f"{what}: four ranks need about 1.2 GB", fix)


def check_folder(subject: str, folder: Path, fix: str) -> Finding:
    """`folder` can be written, and its disk has room.

    Args:
        fix: the command that puts things elsewhere.
    """
    probe = folder / f".minillm-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return Finding("FAIL", subject, f"cannot write to {folder}: {error.strerror}", fix)
    what = f"{folder} is writable, {free:.1f} GB free on its disk"
    if free < 1:
        return Finding("warn", subject, f"{what}: checkpoints and caches may not fit", fix)
    return Finding("ok", subject, what)
