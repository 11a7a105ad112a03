"""Chapter 4, exercise 4: the roofline model. What a machine can at best make of a kernel.

Throughout: `peak` is FLOP/s, `rate` bytes/s of memory, `intensity` FLOP a byte. All
arguments may be numbers or arrays, and arrays give arrays.
"""

import numpy as np


def ridge(peak, rate):
    """The intensity from which on arithmetic, no longer memory, limits a kernel (equation 6)."""
    # hole 4: one division
    return peak / rate
    # end of hole


def attainable(intensity, peak, rate):
    """The most FLOP/s that a kernel of that intensity can reach (equation 5)."""
    # hole 4: the lower of the two roofs
    return np.minimum(peak, intensity * rate)
    # end of hole


def least_seconds(flops, nbytes, peak, rate):
    """The least time for `flops` operations on `nbytes` moved (equation 4): memory and arithmetic
    work at the same time, so neither waits for the other. Either may be 0."""
    # hole 4: the longer of the two times
    return np.maximum(flops / peak, nbytes / rate)
    # end of hole
