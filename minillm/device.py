"""Where arrays live: NumPy on the CPU, CuPy on a GPU. CuPy is imported only when asked for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from minillm.errors import UserError

Array = Any  # numpy.ndarray or cupy.ndarray: the same code runs on both


def xp_of(array: Array) -> ModuleType:
    """The array module (`numpy` or `cupy`) that `array` belongs to."""
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def module(device: str) -> ModuleType:
    """The array module of a device name, `"cpu"` or `"cuda"`.

    Raises:
        UserError: unknown device; CuPy not installed or broken; no usable GPU.
    """
    if device == "cpu":
        return np
    if device != "cuda":
        raise UserError(f"unknown device {device!r}: choose 'cpu' or 'cuda'")
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            raise UserError(
                "device 'cuda' needs CuPy: pip install 'minillm[cuda13]' (or cuda12)"
            ) from None
        cause = error.__cause__ or error  # CuPy's own words begin and end with a line of "="
        reason = str(cause).strip().splitlines() or [type(cause).__name__]
        raise UserError(
            f"device 'cuda': CuPy is installed but does not load ({reason[0]}): see minillm doctor"
        ) from None
    if not cupy.cuda.is_available():
        raise UserError("device 'cuda': CuPy finds no usable GPU or driver; use --device cpu")
    return cupy


def device_of(array: Array) -> str:
    """`"cpu"` or `"cuda"`."""
    return "cpu" if xp_of(array) is np else "cuda"


def to_device(array: Array, device: str) -> Array:
    """`array` on `device`; itself if it is there already."""
    if device_of(array) == device:
        return array
    xp = module(device)
    return xp.asarray(array) if xp is not np else sys.modules["cupy"].asnumpy(array)


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Raise UserError where a GPU runs out of memory inside a `with` block."""
    try:
        yield
    except MemoryError as error:
        if not type(error).__module__.startswith("cupy"):
            raise
        raise UserError(
            f"the GPU is out of memory ({error}): try a smaller --micro_batch_size or --block_size,"
            " --dtype bfloat16, or a smaller model"
        ) from None


def synchronize(device: str) -> None:
    """Wait until all work queued on `device` is done (at once on the CPU)."""
    if device == "cuda":
        module(device).cuda.get_current_stream().synchronize()
