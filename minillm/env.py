"""Flags and process-wide settings, read once, before NumPy loads its BLAS.

    DEBUG=1         say which implementation of each kernel runs (2: its time and rates; 3: ops too)
    CHECK=1         compare every kernel call with its reference
    MINILLM_KERNELS force implementations: "reference", or "matmul=cpu_blocked,softmax=reference"
    MINILLM_CACHE   where compiled kernels, encoded data and downloads are kept
    MINILLM_GPU_AWARE_MPI=1  messages take arrays on a GPU as they are (distributed/mpi.py reads it)

What comes in: environment variables. What goes out: the constants below, and the thread variables
of the BLAS libraries, set only where the user has not set them.
"""

import ctypes
import os
import sys
from pathlib import Path


def _flag(name: str) -> int:
    value = os.environ.get(name, "0")
    return int(value) if value.isdigit() else 0


DEBUG = _flag("DEBUG")
CHECK = _flag("CHECK")
KERNELS = os.environ.get("MINILLM_KERNELS", "")
CACHE = Path(
    os.environ.get("MINILLM_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minillm"
)

# Set by the launchers' local daemons: how many ranks share this machine.
_LOCAL_RANKS = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def _local_ranks() -> int:
    return next((int(os.environ[v]) for v in _LOCAL_RANKS if os.environ.get(v, "").isdigit()), 1)


def _number(variable: str) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isdigit() else 0


def _share_threads() -> tuple[int, int]:
    """This process's threads, and those that its BLAS starts of its own.

    Each rank takes cores / local ranks threads, or OMP_NUM_THREADS. They are threads of our own
    (kernels/runtime/threads.py), also for matrix products: the BLAS is told to start none, unless
    the user has decided otherwise.
    """
    threads = _number("OMP_NUM_THREADS") or max(1, _cores() // _local_ranks())
    decided = max(map(_number, _BLAS_VARIABLES))
    for variable in _BLAS_VARIABLES:
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # pools that spin steal each other's cores
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    if "numpy" in sys.modules and not decided:  # too late for variables: its BLAS has started
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, user_api="blas")
    return threads, decided or 1


def _keep_freed_memory() -> None:
    """Ask glibc to reuse large blocks: arrays fresh from mmap fault in page by page at each use.

    32 MB is the largest threshold it accepts. The trim threshold must be set together with it,
    since setting either switches the self-adjusting one off.
    """
    if not sys.platform.startswith("linux"):
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent in musl
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


THREADS, BLAS_THREADS = _share_threads()
_keep_freed_memory()


def debug(level: int, text: str) -> None:
    """Print `text` to stderr when DEBUG is at least `level`."""
    if level <= DEBUG:
        print(text, file=sys.stderr, flush=True)


_said: set[str] = set()


def say_once(text: str) -> None:
    """Print a notice to stderr the first time it comes up: no fallback is silent, none nags."""
    if text not in _said:
        _said.add(text)
        print(f"minillm: {text}", file=sys.stderr, flush=True)


def print_anything() -> None:
    """From now on, what the terminal's encoding lacks is printed as "?" instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
