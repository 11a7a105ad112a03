"""CHECK=1 and DEBUG=2: a kernel call compared with its reference, or timed."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minillm import env
from minillm.device import device_of, synchronize, to_device
from minillm.kernels.registry import Kernel
from minillm.kernels.tolerances import tolerance


class KernelCheckError(AssertionError):
    """A kernel and its reference disagree."""


def outputs(kernel: Kernel, result: Any, args: tuple) -> list[np.ndarray]:
    """Everything a call produced, on the host: what it returned and what it changed in place."""
    arrays = list(result) if isinstance(result, tuple) else [] if result is None else [result]
    arrays += [args[i] for i in kernel.mutates]
    return [np.asarray(a) if np.isscalar(a) else to_device(a, "cpu") for a in arrays]


def _copied(args: tuple) -> tuple:
    return tuple(a.copy() if hasattr(a, "copy") and hasattr(a, "dtype") else a for a in args)


def compare(kernel: Kernel, name: str, got: list[np.ndarray], want: list[np.ndarray]) -> None:
    """Raise KernelCheckError at the first output outside the table's tolerance."""
    if len(got) != len(want):
        raise KernelCheckError(f"{kernel.name} [{name}]: {len(got)} outputs, want {len(want)}")
    for i, (g, w) in enumerate(zip(got, want)):
        if g.shape != w.shape:
            raise KernelCheckError(
                f"{kernel.name} [{name}] output {i}: shape {g.shape}, reference {w.shape}"
            )
        tol = tolerance(kernel.name, str(g.dtype))
        g64, w64 = np.asarray(g, np.float64), np.asarray(w, np.float64)
        with np.errstate(invalid="ignore"):
            scale = np.abs(w64[np.isfinite(w64)]).max(initial=tol.floor)
            wrong = ~(np.abs(g64 - w64) <= tol.atol * scale + tol.rtol * np.abs(w64))
        wrong &= ~((g64 == w64) | (np.isnan(g64) & np.isnan(w64)))  # infinities and NaN that agree
        if wrong.any():
            at = tuple(int(j) for j in np.argwhere(wrong)[0])
            raise KernelCheckError(
                f"{kernel.name} [{name}] output {i}{list(at)}: got {g64[at]:.9g}, reference"
                f" {w64[at]:.9g}; {int(wrong.sum())} of {g.size} outside {tol}"
            )


def instrumented(kernel: Kernel, name: str, function: Callable) -> Callable:
    """`function` with the checks and the timing that CHECK and DEBUG ask for."""
    reference = kernel.implementation("reference")

    def run(*args: Any) -> Any:
        before = _copied(args) if env.CHECK else None
        device = device_of(args[0])
        synchronize(device)
        start = time.perf_counter()
        result = function(*args)
        synchronize(device)
        seconds = max(time.perf_counter() - start, 1e-9)
        if env.DEBUG >= 2:
            cost = kernel.cost(*args)
            rates = f"{cost.bytes / seconds / 1e9:8.2f} GB/s"
            rates += f" {cost.flops / seconds / 1e12:8.4f} TFLOP/s"
            env.debug(2, f"kernel {kernel.name:<24} {name:<12} {seconds * 1e3:9.3f} ms {rates}")
        if before is not None and function is not reference:
            got = outputs(kernel, result, args)
            want = outputs(kernel, reference(*before), before)
            compare(kernel, name, got, want)
        return result

    return run
