"""Launch a kernel of a .cu file on CuPy's current device and stream.

In: which kernel, grid and block, and the address of its arguments, packed by cuda.py as
cuLaunchKernel wants them (a void*[] of addresses). Out: work queued on the stream; nothing waits.

A kernel is compiled and loaded at its first launch on a device. After that a launch is two
questions to CuPy and one foreign call: Python's share is to stay far below a small kernel's time.
"""

import ctypes
import functools
import os
import sys
from pathlib import Path

from minillm.kernels.runtime import nvrtc

# Of cuda.h. A function may use 48 KB of shared memory, static and dynamic, unless it is told more.
_SHARED_SIZE_BYTES, _MAX_DYNAMIC_SHARED_SIZE_BYTES = 1, 8
_INVALID_CONTEXT, _ILLEGAL_ADDRESS, _OUT_OF_RESOURCES = 201, 700, 701
_SHARED_BYTES = 48 << 10


class _Kernel:
    """A loaded kernel: its handle, how to launch it, and the dynamic shared memory it may use."""

    __slots__ = ("dynamic_limit", "enqueue", "handle", "module")

    def __init__(self, path: Path, expression: str):
        cubin = nvrtc.compile(path, (expression,), nvrtc.arch_of_device())
        self.module = sys.modules["cupy"].cuda.function.Module()  # unloads itself when collected
        self.module.load(cubin.image)
        self.handle = self.module.get_function(cubin.names[expression]).ptr
        driver = _driver()
        self.enqueue = driver.cuLaunchKernel
        static = ctypes.c_int()
        _check(
            driver.cuFuncGetAttribute(ctypes.byref(static), _SHARED_SIZE_BYTES, self.handle),
            f"kernel {expression} of {path.name}",
        )
        self.dynamic_limit = _SHARED_BYTES - static.value


_kernels: dict[tuple[int, Path, str], _Kernel] = {}
_of_parent: list[_Kernel] = []


def launch(
    path: Path,
    expression: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    arguments: int,
    shared: int = 0,
) -> None:
    """Queue one launch.

    Args:
        path: the .cu file.
        expression: the kernel, as `layer_norm_forward<float>`.
        arguments: address of a void*[] with the address of each argument; read before this returns.
        shared: bytes of dynamic shared memory.

    Raises:
        UserError: the file does not compile, or there is no NVRTC.
        RuntimeError: CUDA refuses, in its words.
    """
    cuda = sys.modules["cupy"].cuda
    key = (cuda.runtime.getDevice(), path, expression)
    kernel = _kernels.get(key) or _load(key)
    if shared > kernel.dynamic_limit:
        _allow(kernel, shared, expression, path)
    stream = cuda.get_current_stream().ptr
    status = kernel.enqueue(kernel.handle, *grid, *block, shared, stream, arguments, None)
    if status == _INVALID_CONTEXT:  # this thread's first use of the device: bind CuPy's context
        cuda.runtime.free(0)
        status = kernel.enqueue(kernel.handle, *grid, *block, shared, stream, arguments, None)
    if status:
        what = f"kernel {expression} of {path.name}, grid {grid}, block {block}"
        _check(status, f"{what}, {shared} bytes of dynamic shared memory")


def _load(key: tuple[int, Path, str]) -> _Kernel:
    if _of_parent:
        raise RuntimeError(
            "CUDA does not survive a fork, and this process was forked after a kernel had run:"
            " start it with multiprocessing's 'spawn'"
        )
    return _kernels.setdefault(key, _Kernel(*key[1:]))


def _allow(kernel: _Kernel, shared: int, expression: str, path: Path) -> None:
    """Tell CUDA that `kernel` may use more dynamic shared memory than it does by default."""
    sys.modules["cupy"].cuda.runtime.free(0)  # binds CuPy's context, should this be a new thread
    set_attribute = _driver().cuFuncSetAttribute
    status = set_attribute(kernel.handle, _MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
    _check(status, f"kernel {expression} of {path.name}, {shared} bytes of dynamic shared memory")
    kernel.dynamic_limit = shared


@functools.cache
def _driver() -> ctypes.CDLL:
    """libcuda with the types of what is called here."""
    cuda = ctypes.CDLL("libcuda.so.1")
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
    text = ctypes.POINTER(ctypes.c_char_p)
    # function, grid, block, shared bytes, stream, arguments, extra
    cuda.cuLaunchKernel.argtypes = [pointer, *[size] * 7, pointer, pointer, pointer]
    cuda.cuFuncGetAttribute.argtypes = [ctypes.POINTER(number), number, pointer]
    cuda.cuFuncSetAttribute.argtypes = [pointer, number, number]
    cuda.cuGetErrorName.argtypes = cuda.cuGetErrorString.argtypes = [number, text]
    return cuda


def _check(status: int, what: str) -> None:
    """Raise RuntimeError in CUDA's words unless `status` is 0."""
    if not status:
        return
    words = []
    for ask in (_driver().cuGetErrorName, _driver().cuGetErrorString):
        text = ctypes.c_char_p()
        ask(status, ctypes.byref(text))
        words.append((text.value or b"unknown").decode())
    message = f"{what}: {words[1]} ({words[0]}, {status})"
    if status >= _ILLEGAL_ADDRESS and status != _OUT_OF_RESOURCES:
        message += "; CUDA runs behind Python, so it may come from an earlier kernel"
    raise RuntimeError(message)


def _after_fork() -> None:
    """In a child: forget the parent's kernels, without unloading what is the parent's."""
    _of_parent.extend(_kernels.values())
    _kernels.clear()


os.register_at_fork(after_in_child=_after_fork)
