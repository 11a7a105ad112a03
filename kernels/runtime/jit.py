"""Numba on the CPU: one decorator with the house's flags, and a disk cache that is never stale.

Numba's cache watches only the file of the compiled function. Ours is keyed by all kernel sources,
so a change in an inlined helper (vmath.py) recompiles what calls it.
"""

import hashlib
import os
from pathlib import Path

from minillm import env


def cache_directory(kernels: Path) -> Path:
    """Where code compiled from the sources under `kernels` is kept: another place for others."""
    sources = sorted(kernels.rglob("*.py"))
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:16]
    return env.CACHE / "numba" / digest


os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_directory(Path(__file__).parents[1])))

from numba import njit  # noqa: E402  (reads NUMBA_CACHE_DIR when imported)

# Sums may be reordered (so they vectorise) and multiply-adds fused; infinities and NaN keep their
# meaning, since masks are infinite and a NaN must surface.
_FAST = {"reassoc", "contract", "nsz", "arcp"}

jit = njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
# For functions called in inner loops that rely on each rounding, up to fused multiply-adds. Always
# inlined, since a call left in a loop keeps it from vectorising. The flags must be given: where a
# function has none it inherits its caller's.
EXACT = {"fastmath": {"contract"}, "forceinline": True, "error_model": "numpy"}
jit_exact = njit(nogil=True, **EXACT)  # kept in the cache with the loops that call it
