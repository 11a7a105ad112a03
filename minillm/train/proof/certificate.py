"""The certificate: what ran where and when, and the verdict on each case, as a table."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from minillm.train.proof.cases import LOSS_STEPS, SAMPLES
from minillm.train.proof.verdict import BAR, Verdict


def about(root: Path) -> dict[str, Any]:
    """Date, machine, versions and the commit of the checkout `root`."""
    versions = {"python": platform.python_version()}
    for name in ("numpy", "numba", "mpi4py"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "versions": versions,
        "commit": _commit(root),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), "unknown")


def _commit(root: Path) -> str:
    command = ["git", "describe", "--always", "--dirty=, with changes"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:  # no git
        return "unknown"
    return done.stdout.strip() or "unknown"


def row(verdict: Verdict) -> str:
    """A verdict in a line."""
    v = verdict
    if v.kind == "loss":
        cells = [_cell(v.loss, ">10.4f"), _cell(v.bytes_a_step, ">12,"), "FAILED" * v.failed]
    else:
        word = "FAILED" if v.failed else "proved" if v.kind == "exact" else ""
        bits = [{None: "-", True: "same", False: "OTHER"}[x] for x in (v.replicas, v.repeated)]
        cells = [_cell(v.difference, ">10.1e"), *(f"{text:>5}" for text in bits), word]
    return "  ".join(filter(None, [f"{v.name:<44} {v.ranks:>6}", *cells, v.note]))


def _cell(value: float | None, form: str) -> str:
    return f"{'-':>{form[1:3]}}" if value is None else f"{value:{form}}"


def in_words(made: dict[str, Any], verdicts: Sequence[Verdict]) -> str:
    """The whole certificate.

    Args:
        made: command, mpi, steps, dtype, seconds, and what `about` says.
    """
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    head = f"{'':<44} {'ranks':>6}"
    compared = [verdict for verdict in verdicts if verdict.kind != "loss"]
    losses = [verdict for verdict in verdicts if verdict.kind == "loss"]
    lines = [
        "",
        "CERTIFICATE: training on many ranks is training in one process",
        "",
        f"command  {made['command']}",
        f"date     {made['date']}, {made['seconds']:.0f} s",
        f"machine  {made['cpu']}, {made['cores']} cores; {made['mpi']}",
        f"code     {made['commit']}; {versions}",
        f"runs     {made['steps']} steps of {SAMPLES} samples, {made['dtype']}",
    ]
    if compared:
        lines += [
            "",
            f"{head}  {'difference':>10}  {'ranks':>5}  {'again':>5}",
            *map(row, compared),
            "",
            "difference  of all parameters a from those of one process on whole batches, b:",
            "            max |a - b| / max |b|, the largest after any step",
            "ranks       what several ranks hold had the same bits after each step",
            "again       a second run had the same bits after each step",
            f"proved      all three, and the difference is at most {BAR:g}",
        ]
    if losses:
        lines += [
            "",
            f"Not exact: validation loss after {LOSS_STEPS} steps of as many samples, float32, and"
            " the bytes",
            "that a rank sends a step, the one that sends the most:",
            f"{head}  {'loss':>10}  {'bytes':>12}",
            *map(row, losses),
        ]
    exact = [verdict for verdict in verdicts if verdict.kind == "exact"]
    failed = [f"{verdict.name}, ranks {verdict.ranks}" for verdict in verdicts if verdict.failed]
    proved = sum(not verdict.failed for verdict in exact)
    last = f"proved: {proved} of {len(exact)} exact cases"
    if not exact:
        last = "proved: nothing: no exact case in float64 was run"
    if known := [verdict.difference for verdict in exact if verdict.difference is not None]:
        last += f", largest difference {max(known):.1e}"
    return "\n".join([*lines, "", last + (f"; failed: {'; '.join(failed)}" if failed else "")])
