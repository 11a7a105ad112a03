"""The files of a folder that implement a kernel: which there are, and the function in each.

An implementation is a file that defines a function of the kernel's name; its own name says where it
runs:

    reference.py            the formula, NumPy or CuPy
    cpu.py, cpu_<how>.py    NumPy arrays; cpu.py is the default there
    numba_gpu.py            Numba CUDA, float32
    v1_<step>.cu, v2_...    CUDA C++ that defines a __global__ of the kernel's name, launched by the
                            function of that name in cuda.py; "cuda" is the newest of them, and the
                            default for CuPy arrays

The last two run on the GPU for CuPy arrays, and on the CPU for NumPy arrays.
"""

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minillm.errors import UserError
from minillm.kernels.signature import arguments, check


class Implementations:
    """The implementations of one kernel.

    Attributes:
        package: of the folder whose files they are.
        name: of the function in each.
        signature: arguments and results with shapes.
        dtypes: what cpu implementations handle.
        added: functions by name that no file holds, a learner's say; for all dtypes and devices.
    """

    def __init__(self, package: str, name: str, signature: str, dtypes: tuple[str, ...]):
        self.package, self.name, self.signature, self.dtypes = package, name, signature, dtypes
        self.added: dict[str, Callable] = {}

    def implementations(self) -> list[str]:
        """Names of the files that implement this kernel: the reference, then the others, by name.

        Those in CUDA C++ come in the order of their steps.
        """
        modules = [m.name for m in pkgutil.iter_modules([str(self.folder)]) if m.name != "cuda"]
        names = [name for name in modules if self._function(name) is not None]
        return sorted(names, key=lambda name: (name != "reference", name)) + self.cuda_steps()

    def cuda_steps(self) -> list[str]:
        """The .cu files that define this kernel, from v1 to the newest, without their endings."""
        from minillm.kernels.runtime.cuda import program

        files = sorted(self.folder.glob("v*.cu"), key=_step)
        return [file.stem for file in files if self.name in program(file).kernels]

    @functools.cached_property
    def folder(self) -> Path:
        """Where its declaration and its implementations are."""
        return Path(importlib.import_module(self.package).__path__[0])

    def implementation(self, name: str) -> Callable:
        """The function in the file `name`, uninstrumented; "cuda" is its newest .cu file.

        Raises:
            UserError: there is no such implementation.
        """
        function = self._function(name)
        if function is None:
            have = ", ".join(self.implementations())
            raise UserError(f"kernel {self.name} has no implementation {name!r}; it has: {have}")
        return function

    def _function(self, name: str) -> Callable | None:
        if name in self.added:
            return self.added[name]
        if name == "cuda":
            steps = self.cuda_steps()
            return self._function(steps[-1]) if steps else None
        if (self.folder / f"{name}.cu").exists():
            from minillm.kernels.runtime.cuda import program

            host = getattr(importlib.import_module(f"{self.package}.cuda"), self.name)
            source = program(self.folder / f"{name}.cu")
            if self.name not in source.kernels:
                return None
            return self._checked(functools.partial(host, source))
        path = f"{self.package}.{name}"
        if importlib.util.find_spec(path) is None:
            return None
        function = getattr(importlib.import_module(path), self.name, None)
        return self._checked(function) if function and name == "numba_gpu" else function

    def _checked(self, function: Callable) -> Callable:
        """`function`, asked first whether the shapes of a call fit the signature."""
        expected, seen = arguments(self.signature), set()

        def call(*args: Any) -> Any:
            shapes = tuple([getattr(a, "shape", None) for a in args])
            if shapes not in seen:
                check(self.name, expected, args)
                seen.add(shapes)
            return function(*args)

        return call

    def supports(self, name: str, dtype: str) -> bool:
        """Whether implementation `name` handles `dtype`; the reference handles all."""
        if name == "reference" or name in self.added:
            return True
        if name == "numba_gpu":
            return dtype == "float32"
        if self.for_gpu(name):
            return dtype in ("float32", "float64", "bfloat16")
        return dtype in self.dtypes

    def for_gpu(self, name: str) -> bool:
        """Whether implementation `name` is written for a GPU, and only emulated on a CPU."""
        return name in ("cuda", "numba_gpu") or (self.folder / f"{name}.cu").exists()


def _step(file: Path) -> tuple[int, str]:
    """v2_warp.cu before v10_cluster.cu."""
    number = file.stem[1:].partition("_")[0]
    return (int(number) if number.isdigit() else 0, file.stem)
