"""How long does it take? Your file for chapter 18: a timer, a comparison, an interval, a limit."""

import time

import numpy as np


def nothing():
    """Wait for no device."""


def seconds_a_call(function, rounds, warmup=1, least=0.0, wait=nothing, clock=time.perf_counter):
    """Time `function()`: seconds a call, one figure a round, (rounds,) float64.

    Call it `warmup` times first, untimed. Then choose the number of calls that all rounds have:
    start with one, and while a trial of so many calls takes less than `least` seconds, double it.
    Trials are not among the results; with least=0 none is needed.

    `wait()` returns when all work that was asked for so far is done: a GPU is only told what to do.
    What was asked for before a round, or a trial, must be done before it begins, and what it asks
    for is part of it. Read the clock and wait only at its two ends: both take time themselves.

    Args:
        rounds: how many figures.
        warmup: calls that are not timed.
        least: seconds that a round should last: below it the clock itself shows.
        wait: synchronise with the device.
        clock: the time now, in seconds.
    """
    # hole 1: return the seconds a call of each round
    for _ in range(warmup):
        function()

    def timed(calls):
        wait()
        began = clock()
        for _ in range(calls):
            function()
        wait()
        return clock() - began

    calls = 1
    while least and timed(calls) < least:
        calls *= 2
    return np.array([timed(calls) / calls for _ in range(rounds)])
    # end of hole


def ratio_by_turns(a, b, rounds, clock=time.perf_counter):
    """How many times as long `b()` takes as `a()`: the 20th percentile, median, 80th, (3,) float64.

    One untimed call each. Then `rounds` rounds; each calls both, once, and gives one ratio. Rounds
    0, 2, 4 ... call a first, rounds 1, 3, 5 ... call b first. Percentiles as numpy.percentile's.
    `a` and `b` may be the same function: then the ratios show the noise.
    """
    # hole 2: return the percentiles of the rounds' ratios
    a()
    b()
    ratios = []
    for i in range(rounds):
        seconds = [0.0, 0.0]
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            began = clock()
            (a, b)[which]()
            seconds[which] = clock() - began
        ratios.append(seconds[1] / seconds[0])
    return np.percentile(ratios, [20, 50, 80])
    # end of hole


def median_interval(samples, confidence=0.95):
    """An interval that holds the true median with at least this probability: (low, high).

    Equation (4) of the text: the k-th smallest and the k-th largest sample, for the largest k that
    the confidence allows. `math.comb` is exact.

    Args:
        samples: (n,) independent measurements, in any order; not changed.
        confidence: between 0 and 1.

    Raises:
        ValueError: there are too few samples for any k.
    """
    # hole 3: return (low, high), or raise ValueError
    from math import comb

    ordered = np.sort(np.asarray(samples))
    n, k, below = len(ordered), 0, 0.0
    while k < n // 2:
        below += comb(n, k) / 2**n  # P(at most k samples are below the median)
        if 2 * below > 1 - confidence:
            break
        k += 1
    if k == 0:
        raise ValueError(f"{n} samples are too few for a confidence of {confidence}")
    return ordered[k - 1], ordered[n - k]
    # end of hole


def share_of_limit(nbytes, flops, seconds, copy_rate, gemm_rate):
    """How near a call is to what the machine can do: (share, limit), equations (6) and (7).

    Args:
        nbytes, flops: that a call must at least move and do.
        seconds: that it took.
        copy_rate: bytes/s of a copy from memory to memory.
        gemm_rate: FLOP/s of a matrix product.

    Returns:
        The share, a float; and "copy" or "GEMM", the limit that needs longer ("copy" if equal), or
        "cache" where the copy rate was exceeded: then the data did not come from memory.

    Raises:
        ValueError: the time is not positive, or flops / seconds is over 1.05 times the GEMM rate.
    """
    # hole 4: refuse the impossible, then return (share, limit)
    if not seconds > 0:
        raise ValueError(f"a time of {seconds} s")
    if flops / seconds > 1.05 * gemm_rate:
        raise ValueError(f"{flops / seconds:.3g} FLOP/s is more than a GEMM's {gemm_rate:.3g}")
    memory, compute = nbytes / copy_rate, flops / gemm_rate
    share = max(memory, compute) / seconds
    if memory > seconds:
        return share, "cache"
    return share, "copy" if memory >= compute else "GEMM"
    # end of hole
