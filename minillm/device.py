"""Where arrays live: NumPy on the CPU, CuPy on a GPU. CuPy is imported only when asked for."""

import sys
from types import ModuleType
from typing import Any

import numpy as np

from minillm.errors import UserError

Array = Any  # numpy.ndarray or cupy.ndarray: the same code runs on both


def xp_of(array: Array) -> ModuleType:
    """The array module (`numpy` or `cupy`) that `array` belongs to."""
    if isinstance(array, np.ndarray | np.generic):
        return np
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def module(device: str) -> ModuleType:
    """The array module of a device name, `"cpu"` or `"cuda"`.

    Raises:
        UserError: unknown device, CuPy not installed, or no usable GPU.
    """
    if device == "cpu":
        return np
    if device != "cuda":
        raise UserError(f"unknown device {device!r}: choose 'cpu' or 'cuda'")
    try:
        import cupy
    except ImportError:
        raise UserError(
            "device 'cuda' needs CuPy: pip install 'minillm[cuda13]' (or cuda12)"
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


def synchronize(device: str) -> None:
    """Wait until all work queued on `device` is done (at once on the CPU)."""
    if device == "cuda":
        module(device).cuda.get_current_stream().synchronize()
