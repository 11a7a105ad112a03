"""Numba CUDA: kernels in Python, the versions to read. One source, run where its arrays live.

    @kernel
    def _double(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = float32(2) * x[i]

    _double[blocks, threads](x, y)

What comes in: functions written for `numba.cuda` whose arrays are float32 (indices int64), and the
arrays of a launch. What goes out: the arrays the kernel wrote. An array's type picks how it runs:

    CuPy arrays    compiled by numba-cuda, queued on CuPy's current stream
    NumPy arrays   compiled for the CPU, a fiber a CUDA thread, checked (numba_fibers.py)
    NumPy arrays, NUMBA_ENABLE_CUDASIM=1   Numba's own simulator: no warps, 1000 times slower

Numba takes Python's floats, and literals such as 0.5, for float64, which GPUs are slow at: a launch
passes Python floats as float32, and kernels write float32(0.5).
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from minillm.device import device_of
from minillm.errors import UserError
from minillm.kernels.runtime import jit  # noqa: F401  (before numba: says where it keeps code)

# isort: split
from numba import config, float32, float64, int32, int64, uint32, uint64

from minillm.kernels.runtime import numba_fibers
from minillm.kernels.runtime.cuda import MOST_BLOCKS, MOST_THREADS

__all__ = [
    "cuda", "device", "float32", "float64", "int32", "int64", "kernel", "uint32", "uint64",
]  # fmt: skip


class _Cuda:
    """The name `cuda` in a kernel's source; what it means is filled in where the kernel runs."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"cuda.{name} has a meaning inside a @kernel or @device function only")


cuda = _Cuda()


class Device:
    """A function that kernels call: `@device`. Every thread of a block calls it on its own."""

    def __init__(self, function: Callable):
        self.function = function
        self._built: dict[str, Any] = {}

    def build(self, target: str) -> Any:
        """The function compiled for a target: "gpu", "simulator" or "fibers"."""
        if target not in self._built:
            self._built[target] = _BUILD[target](self.function, True)
        return self._built[target]


class Kernel:
    """A function that a grid of threads runs: `@kernel`, launched as `kernel[grid, block](...)`."""

    def __init__(self, function: Callable):
        self.function = function
        self.name = function.__name__
        self.parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
        self._built: dict[str, Any] = {}

    def __getitem__(self, launch: tuple) -> Callable[..., None]:
        grid, block = (_three(self.name, extent) for extent in launch)
        if min(block) < 1 or np.prod(block) > MOST_THREADS:
            raise UserError(
                f"kernel {self.name}: a block of {block} threads; CUDA takes 1 to {MOST_THREADS}"
            )
        if min(grid) < 0 or any(map(int.__gt__, grid, MOST_BLOCKS)):
            raise UserError(f"kernel {self.name}: a grid of {grid}; CUDA takes up to {MOST_BLOCKS}")
        return functools.partial(self._launch, grid, block)

    def _launch(self, grid: tuple, block: tuple, *args: Any) -> None:
        """Run it; a grid of no blocks does nothing, where CUDA would refuse it."""
        if len(args) != len(self.parameters):
            names = ", ".join(self.parameters)
            raise UserError(
                f"kernel {self.name} takes {len(self.parameters)} arguments ({names}),"
                f" got {len(args)}"
            )
        places = {device_of(a) for a in args if hasattr(a, "dtype") and hasattr(a, "ndim")}
        if len(places - {"cpu"}) and any(isinstance(a, np.ndarray) for a in args):
            raise UserError(f"kernel {self.name}: some arrays are NumPy's and some CuPy's")
        if 0 in grid:
            return
        args = tuple(np.float32(a) if isinstance(a, float) else a for a in args)
        target = "gpu" if "cuda" in places else "simulator" if config.ENABLE_CUDASIM else "fibers"
        if target not in self._built:
            _check_paths(self)
            self._built[target] = _BUILD[target](self.function, False)
        _RUN[target](self._built[target], grid, block, args)


kernel, device = Kernel, Device


def _three(name: str, extent: Any) -> tuple[int, int, int]:
    """`8`, `(8,)`, `(8, 4)` -> `(8, 1, 1)`, ...: the extents of a grid or a block."""
    extent = tuple(map(int, extent if isinstance(extent, tuple) else (extent,)))
    if len(extent) > 3:
        raise UserError(f"kernel {name}: {extent} has {len(extent)} dimensions; CUDA has 3")
    return extent + (1,) * (3 - len(extent))


def _bound(function: Callable, module: Any, target: str) -> FunctionType:
    """`function` where `cuda` is `module` and device functions are compiled for `target`."""
    names = {**function.__globals__, "cuda": module}
    for name in function.__code__.co_names:
        if isinstance(names.get(name), Device):
            names[name] = names[name].build(target)
    bound = FunctionType(function.__code__, names, function.__name__)
    bound.__module__, bound.__qualname__ = function.__module__, function.__qualname__
    return bound


def _check_paths(kernel: Kernel) -> None:
    """Refuse shared memory that is declared in a device function and reached over two others.

    numba-cuda links such a function once for each, and fails at the doubled declaration.
    """
    reached: dict[Device, list[str]] = {}

    def walk(function: Callable) -> None:
        for name in function.__code__.co_names:
            called = function.__globals__.get(name)
            if isinstance(called, Device):
                reached.setdefault(called, []).append(function.__name__)
                walk(called.function)

    walk(kernel.function)
    for called, callers in reached.items():
        if len(callers) > 1 and "shared" in called.function.__code__.co_names:
            raise UserError(
                f"kernel {kernel.name}: {called.function.__name__} has shared memory and is called"
                f" from {' and '.join(callers)}; Numba can link it for one caller only"
            )


# ---------------------------------------------------------------- CuPy arrays, on a GPU


@functools.cache
def _numba_cuda() -> ModuleType:
    """The module numba.cuda, imported as late as possible."""
    if not hasattr(np, "row_stack"):  # gone since NumPy 2.5, but numba-cuda still names it
        np.row_stack = np.vstack
    # Else Numba waits for the stream of every CuPy array it is given. numba-cuda reads the variable
    # when it is imported; Numba itself has read it already.
    sync = os.environ.setdefault("NUMBA_CUDA_ARRAY_INTERFACE_SYNC", "0")
    config.CUDA_ARRAY_INTERFACE_SYNC = int(sync)
    from numba import cuda

    return cuda


def _gpu_build(function: Callable, is_device: bool) -> Any:
    if importlib.util.find_spec("numba_cuda") is None:
        raise UserError(
            "Numba kernels on a GPU need numba-cuda: pip install 'minillm[cuda13]' (or cuda12)"
        )
    module = _numba_cuda()
    return module.jit(_bound(function, module, "gpu"), device=is_device)


def _gpu_run(built: Any, grid: tuple, block: tuple, args: tuple) -> None:
    import cupy

    stream = cupy.cuda.get_current_stream().ptr
    built[grid, block, _numba_cuda().external_stream(stream) if stream else 0](*args)


# ---------------------------------------------------------------- NumPy arrays, on the CPU


def _fibers_build(function: Callable, is_device: bool) -> Any:
    build = numba_fibers.device if is_device else numba_fibers.FiberKernel
    return build(_bound(function, None, "fibers"))


# ---------------------------------------------------------------- Numba's own simulator


class _Simulated:
    """`cuda` in simulated code: of whichever kernel runs.

    The simulator itself swaps the name in a function's globals around each call, and threads that
    wait inside a device function then take it from each other.
    """

    def __getattr__(self, name: str) -> Any:
        from numba.cuda.simulator.kernel import _get_kernel_context

        try:
            return getattr(_get_kernel_context(), name)
        except AttributeError:
            raise UserError(
                f"cuda.{name}: Numba's simulator does not have it; unset NUMBA_ENABLE_CUDASIM"
            ) from None


def _simulator_build(function: Callable, is_device: bool) -> Any:
    bound = _bound(function, _Simulated(), "simulator")
    return bound if is_device else _numba_cuda().jit(bound)


def _simulator_run(built: Any, grid: tuple, block: tuple, args: tuple) -> None:
    copies = [np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a for a in args]
    built[grid, block](*copies)  # which takes contiguous arrays only
    for a, copy in zip(args, copies):
        if copy is not a and isinstance(a, np.ndarray) and a.flags.writeable:
            a[...] = copy


_BUILD = {"gpu": _gpu_build, "fibers": _fibers_build, "simulator": _simulator_build}
_RUN = {"gpu": _gpu_run, "fibers": numba_fibers.FiberKernel.run, "simulator": _simulator_run}
