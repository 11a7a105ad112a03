"""An emulator for CUDA C++: runs the .cu files of this project on NumPy arrays, on any CPU.

Each CUDA thread is a fiber; every load and store is checked (bounds, races, shared memory that was
never written) and can be counted (sectors, bank conflicts). See emulator/README.md.
"""

from minillm.kernels.runtime.emulator.launch import (
    KernelFault,
    available,
    launch,
    options,
    profiled,
    runtime,
)

__all__ = ["KernelFault", "available", "launch", "options", "profiled", "runtime"]
