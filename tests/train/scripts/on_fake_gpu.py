"""A program on stand-in GPUs:  python on_fake_gpu.py GPUS KERNELS PROGRAM arguments...

KERNELS is "reference", for the formulas alone, or "cuda", for the CUDA kernels on the emulator;
PROGRAM is "train" (train.py), or a subcommand of minillm.
"""

import sys

from minillm import kernels
from minillm.distributed import world
from tests import fake_cupy

gpus, implementation, program, *argv = sys.argv[1:]
fake_cupy.install(int(gpus))
with kernels.use("reference" if implementation == "reference" else ""):
    if program == "train":
        import train

        train.main(world(), argv)
    else:
        from minillm.cli import main

        sys.exit(main([program, *argv]))
