"""Measures the CPU's ladder of chapter 06 on one core, and prints the table of its text.

    cd tutorials/ch06_matmul
    OMP_NUM_THREADS=1 python measure.py > measured.txt

CPU time of this process, so that other programs' time slices do not count; the 20th percentile of
calls, their quiet moments.
"""

import time

import numpy as np
from loops import blocks, ijk, ikj
from peak import LANES, one_chain, ten_chains

from minillm.kernels.matmul import cpu_blocked


def python(a, b, c):
    """Three loops as they stand."""
    a, b, c = a.tolist(), b.tolist(), c.tolist()
    for i in range(len(a)):
        for j in range(len(b[0])):
            for k in range(len(b)):
                c[i][j] += a[i][k] * b[k][j]


def registers(a, b, c):
    """The engine's own, of numbers that stay in registers."""
    cpu_blocked.matmul(a, b)


def blas(a, b, c):
    """OpenBLAS."""
    np.matmul(a, b, out=c)


def seconds(function, *args, least=1.0):
    """CPU time of a call: the 20th percentile of one second, and five calls at least."""
    took = []
    while len(took) < 5 or sum(took) < least:
        start = time.process_time()
        function(*args)
        took.append(time.process_time() - start)
    return sorted(took)[len(took) // 5]


def main():
    """Print the table."""
    x, y, n = np.full(LANES, 0.5, np.float32), np.zeros(10 * LANES, np.float32), 1_000_000
    one, ten = (seconds(f, n, x, y) for f in (one_chain, ten_chains))
    flops = 2 * LANES * n
    print("GFLOP/s of one core: 2 n^3 / CPU time for n x n float32 matrices, 20th percentile")
    print(
        f"multiply-adds alone: one chain {flops / one / 1e9:.1f}, ten {10 * flops / ten / 1e9:.1f}"
    )
    print(
        f"{'n':>6} {'Python':>8} {'ijk':>8} {'ikj':>8} {'blocks':>8} {'registers':>9} {'BLAS':>8}"
    )
    for n in (64, 128, 256, 512, 1024, 2048):
        a, b = np.random.default_rng(n).normal(size=(2, n, n)).astype(np.float32)
        rates = []
        for function in (python, ijk, ikj, blocks, registers, blas):
            slow = (function is python and n > 128) or (function is ijk and n > 1024)
            c = np.zeros((n, n), np.float32)
            rates.append("-" if slow else f"{2 * n**3 / seconds(function, a, b, c) / 1e9:#.3g}")
        print("{:>6} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8}".format(n, *rates), flush=True)


main()
