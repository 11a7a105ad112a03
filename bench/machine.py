"""What this machine is and how fast it can copy and multiply: the limits that kernels are held to.

Both are measured, not looked up: a data sheet knows nothing of the cores, the memory channels and
the neighbours that a program gets.
"""

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import numpy as np

from minillm import env
from minillm.cli.checks.machine import blas_name
from minillm.kernels.runtime.threads import parallel
from minillm.train.metrics import gemm_times

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What the kernels cannot beat.

    Attributes:
        copy: bytes/s, read and written together, of a copy too large for any cache.
        gemm: FLOP/s of a float32 matrix product, of NumPy's BLAS on our threads.
    """

    copy: float
    gemm: float

    def share(self, nbytes: int, flops: int, seconds: float) -> tuple[float, str]:
        """Time at the limit over time taken, and which limit binds (the roofline model: Williams,
        Waterman & Patterson 2009)."""
        memory, compute = nbytes / self.copy, flops / self.gemm
        return max(memory, compute) / seconds, "copy" if memory >= compute else "GEMM"

    def or_better(self, other: "Limits") -> "Limits":
        """The higher of each: noise only ever makes a machine look slower."""
        return Limits(max(self.copy, other.copy), max(self.gemm, other.gemm))


def measure(seconds: float = 2.0) -> Limits:
    """Measure both limits, on all threads."""
    return Limits(copy_rate(seconds / 2), gemm_rate(seconds / 2))


def gemm_rate(seconds: float, dtype: str = "float32") -> float:
    """FLOP/s of the best of repeated square products; small ones too, which find a quiet moment on
    a busy machine."""
    sizes = (512, 1024, 2048)
    return max(
        2 * size**3 / min(gemm_times("cpu", dtype, size, seconds / len(sizes))) for size in sizes
    )


def copy_rate(seconds: float) -> float:
    """Bytes/s of the best of repeated copies, each thread its part (STREAM's copy: McCalpin 1995).

    Both arrays are as large as the last cache, so that none of the target is left in it from the
    copy before.
    """
    size = min(max(last_cache(), 64 * MEGABYTE), 512 * MEGABYTE)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    best, stop = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < stop:
        began = time.perf_counter()
        parallel(_copy, size, MEGABYTE, source, target)
        best = min(best, time.perf_counter() - began)
    return 2 * size / best


def _copy(start: int, stop: int, source: np.ndarray, target: np.ndarray) -> None:
    np.copyto(target[start:stop], source[start:stop])  # runs without the GIL


def last_cache() -> int:
    """Bytes of the largest cache; 0 where the system does not say."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KMG")) * units.get(text[-1], 1))
    return max(sizes)


def describe() -> dict[str, object]:
    """Machine, date and versions, to stand beside every stored number."""
    versions = {"python": platform.python_version()}
    for name in ("numpy", "numba", "mpi4py", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": env.THREADS,
        "blas_threads": env.BLAS_THREADS,  # more than 1: it starts threads beside ours, and spins
        "last_cache_mb": last_cache() // MEGABYTE,
        "blas": blas_name(),
        "system": platform.platform(),
        "commit": _commit(),
        "versions": versions,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), "unknown")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # no git
        return "unknown"
    return done.stdout.strip() or "unknown"
