"""The limits of this machine, and a kernel held to them."""

import sys
from pathlib import Path

import minillm  # noqa: F401  isort: skip - before NumPy: it sets the threads of the BLAS
import numpy as np
from measure import seconds_a_call, share_of_limit

from minillm.kernels.registry import declared


def main():
    """Measure both limits, then the formula and the loop of layer norm's forward pass."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # where bench/ is
    from bench.machine import measure

    limits = measure(0.6)
    print(f"limits: copy {limits.copy / 1e9:.1f} GB/s, GEMM {limits.gemm / 1e9:.1f} GFLOP/s")
    kernel = declared()["layer_norm_forward"]
    args = kernel.drawn("float32", N=2048, C=768)
    cost = kernel.cost(*args)
    print(f"{kernel.name} N=2048 C=768: {cost.bytes:,} bytes, {cost.flops:,} operations")
    for name in "reference", "cpu":
        function = kernel.implementation(name)
        times = seconds_a_call(lambda function=function: function(*args), rounds=15)
        share, bound = share_of_limit(*cost, np.median(times), limits.copy, limits.gemm)
        print(f"  {name:<9}  {np.median(times) * 1e3:7.3f} ms  {share:.0%} of {bound}")


if __name__ == "__main__":
    main()
