"""`minillm doctor`: is this machine ready for `mpirun -n 4 python train.py`? One line a finding,
and below what is wrong the command that mends it.

It must work where other things do not: so no tyro or rich here, and whatever may crash or hang
(MPI, Numba, CuPy) runs in another process with a time limit.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from minillm import env
from minillm.cli.checks import Finding, gpu, machine, mpi


def checks() -> list[Callable[[], Finding | list[Finding]]]:
    """What is looked at, in the order of the report."""
    elsewhere = "export MINILLM_CACHE=/tmp/minillm-cache"
    return [
        machine.check_python,
        machine.check_packages,
        machine.check_numba,
        mpi.check_mpi,
        machine.check_threads,
        machine.check_memory,
        lambda: machine.check_folder("cache", env.CACHE, elsewhere),
        lambda: machine.check_folder(
            "folder", Path.cwd(), "cd ~  # or give train.py --out ~/runs/a"
        ),
        machine.check_compiler,
        gpu.check_gpu,
    ]


def examine() -> Iterator[Finding]:
    """Run the checks one after the other."""
    for check in checks():
        found = check()
        yield from found if isinstance(found, list) else [found]


def show(finding: Finding) -> None:
    """Print a finding as a line, and below it its fix."""
    print(f"{finding.status:<5} {finding.subject:<12} {finding.what}", flush=True)
    if finding.fix:
        print(f"{'':<18} fix: {finding.fix}", flush=True)


def main(argv: list[str]) -> int:
    """Print the findings; 0 if train.py can run as the README says, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="minillm doctor", description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    as_json = parser.parse_args(argv).json
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            show(finding)
    failures = sum(finding.status == "FAIL" for finding in findings)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    elif failures:
        print(f"\n{failures} to fix before training.")
    else:
        print("\nReady: mpirun -n 4 python train.py")
    return 1 if failures else 0
