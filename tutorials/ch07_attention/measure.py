"""Measures attention in chapter 07: forward and backward, time and memory; prints its text's table.

    cd tutorials/ch07_attention
    OMP_NUM_THREADS=1 python measure.py > measured.txt

Causal, one sequence of 4 heads of 32 channels, float32, one thread. CPU time of this process, the
20th percentile of calls, their quiet moments; memory is the most that NumPy holds at one moment,
beyond the inputs.
"""

import time
import tracemalloc

import numpy as np
from attention import flash_backward, flash_forward

from minillm.kernels.attention import cpu, reference

H, D, SCALE = 4, 32, 32**-0.5


def both(forward, backward, q, k, v, dout):
    """A forward and a backward pass."""
    out, lse = forward(q, k, v, SCALE, True)
    return backward(dout, q, k, v, out, lse, SCALE, True)


def seconds(*args):
    """CPU time of `both`: the 20th percentile of one second, and five calls at least."""
    took = []
    while len(took) < 5 or sum(took) < 1:
        start = time.process_time()
        both(*args)
        took.append(time.process_time() - start)
    return sorted(took)[len(took) // 5]


def peak(*args):
    """Bytes at the highest moment of `both`."""
    tracemalloc.start()
    both(*args)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def main():
    """Print the table."""
    ways = (
        (reference.attention_forward, reference.attention_backward),
        (flash_forward, flash_backward),
        (cpu.attention_forward, cpu.attention_backward),
    )
    print("forward and backward, causal, 4 heads of 32 channels, float32, one thread")
    print(f"{'':>6} {'milliseconds':>29} {'megabytes':>29}")
    print(f"{'T':>6} {'formula':>9} {'blocks':>9} {'kernel':>9}", end="")
    print(f" {'formula':>9} {'blocks':>9} {'kernel':>9}")
    for T in (128, 256, 512, 1024, 2048, 4096):
        arrays = np.random.default_rng(T).normal(size=(4, 1, H, T, D)).astype(np.float32)
        times = (1e3 * seconds(*way, *arrays) for way in ways)
        sizes = (peak(*way, *arrays) / 1e6 for way in ways)
        print(f"{T:>6}", *(f"{x:>9.2f}" for x in (*times, *sizes)), flush=True)


main()
