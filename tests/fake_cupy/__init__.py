"""A stand-in for CuPy that needs no GPU: `with fake_cupy.installed(): Tensor(1.0, device="cuda")`.

Strict where CuPy is: its arrays never turn into NumPy's by themselves, never meet one, and offer
only what CuPy offers (tests/gpu_arrays/test_fake_cupy.py compares it with the real one).
Kernels written in CUDA C++ run on the emulator, where there is one.

    waits()          how often the program has waited for the GPU
    GPU.chosen       .current is the index of the GPU that this thread chose
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from minillm.kernels.runtime import cuda
from tests.fake_cupy import array, functions, streams

_patched: list[bool] = []


class _GPUs(threading.local):  # each thread chooses its own, as in CUDA
    current = 0


class GPU:
    """The machine's GPUs and what the program did to them."""

    count = 1
    chosen = _GPUs()
    limits: dict[int, float] = {}  # by GPU: the fraction of its memory that the pool may take


class Device:
    """cupy.cuda.Device."""

    def __init__(self, device=None):
        self.id = GPU.chosen.current if device is None else int(device)
        if not 0 <= self.id < GPU.count:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    compute_capability = "90"
    attributes = {"MaxSharedMemoryPerBlockOptin": 227 << 10, "MultiProcessorCount": 132}
    pci_bus_id = property(lambda self: f"0000:{self.id:02x}:00.0")
    mem_info = (130 << 30, 140 << 30)

    def use(self):
        GPU.chosen.current = self.id
        return self

    def synchronize(self):
        array.wait()

    def __enter__(self):
        self._before, GPU.chosen.current = GPU.chosen.current, self.id
        return self

    def __exit__(self, *args):
        GPU.chosen.current = self._before


class MemoryPool:
    """cupy.cuda.MemoryPool, of which only the limit is kept."""

    def set_limit(self, size=None, fraction=None):
        GPU.limits[GPU.chosen.current] = fraction

    def used_bytes(self):
        return 0

    def total_bytes(self):
        return 1 << 20


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


def waits() -> int:
    """How often the program has waited for the GPU."""
    return array.waits[0]


def _modules() -> dict[str, ModuleType]:
    def module(name: str, **contents) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(contents)
        return made

    runtime = module(
        "cupy.cuda.runtime",
        getDeviceCount=lambda: GPU.count,
        getDeviceProperties=lambda device: {"name": b"Stand-in GPU", "multiProcessorCount": 4},
    )
    memory = module("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError)
    cuda_module = module(
        "cupy.cuda", Device=Device, Stream=streams.Stream, Event=streams.Event,
        MemoryPool=MemoryPool, runtime=runtime, memory=memory, is_available=lambda: GPU.count > 0,
        get_current_stream=lambda: streams.CURRENT, alloc_pinned_memory=streams.alloc_pinned_memory,
    )  # fmt: skip
    pool = MemoryPool()
    cupy = module(
        "cupy", __version__="0", cuda=cuda_module, get_default_memory_pool=lambda: pool,
        **functions.EVERYTHING,
    )  # fmt: skip
    special = module("cupyx.scipy.special", erf=functions.erf)
    modules = (cupy, cuda_module, runtime, memory, module("cupyx"), module("cupyx.scipy"), special)
    return {made.__name__: made for made in modules}


def install(gpus: int = 1) -> None:
    """Be CuPy for the rest of this process, on a machine with so many GPUs."""
    GPU.count, GPU.chosen.current, GPU.limits = gpus, 0, {}
    sys.modules.update(_modules())
    _kernels_on_the_emulator()


def _kernels_on_the_emulator() -> None:
    """Give launches of CUDA kernels to the emulator, which executes the same files on the CPU: to
    the launcher, arrays of the GPU look like NumPy's from here on."""
    if _patched:
        return
    _patched.append(True)
    fill = cuda.Arguments.fill

    def fill_from_memory(arguments: cuda.Arguments, args: tuple) -> str:
        strided = [isinstance(a, cuda.Strided) for a in args]
        plain = [a.array if s else a for a, s in zip(args, strided)]
        if len({type(a) for a in plain if hasattr(a, "strides")}) == 1:  # else: let it refuse
            plain = [a._memory if isinstance(a, array.ndarray) else a for a in plain]
            args = tuple(cuda.Strided(a) if s else a for a, s in zip(plain, strided))
        return fill(arguments, args)

    cuda.Arguments.fill = fill_from_memory


@contextmanager
def installed(gpus: int = 1) -> Iterator[None]:
    """Be CuPy inside a `with` block."""
    before = {name: sys.modules.get(name) for name in _modules()}
    install(gpus)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def to_host(x: object) -> np.ndarray:
    """Any array's values as a NumPy array, for comparisons."""
    return x.get() if isinstance(x, array.ndarray) else np.asarray(x)
