"""What must hold of the answers of chapter 18."""

from math import comb

import numpy as np

from minillm.learn import expect, refuses, same
from minillm.tutorials.ch18_measuring.machine import Machine


def check_timer(work):
    m = Machine()
    got = work.seconds_a_call(m.work(2.0), rounds=3, clock=m.clock)
    same("seconds a call of what takes 2 s", got, np.full(3, 2.0))
    m = Machine(compile_seconds=30.0)
    got = work.seconds_a_call(m.work(2.0), rounds=2, clock=m.clock)
    same("seconds a call where the first takes 30 s more", got, np.full(2, 2.0))
    m = Machine(compile_seconds=30.0)
    got = work.seconds_a_call(m.queued(2.0), rounds=3, wait=m.wait, clock=m.clock)
    same("seconds a call on a device that is only told what to do", got, np.full(3, 2.000001), 1e-9)
    m, calls, reads = Machine(), [], []
    timed = m.work(0.25)
    got = work.seconds_a_call(
        lambda: calls.append(timed()),
        rounds=5,
        warmup=3,
        least=1.0,
        clock=lambda: (reads.append(1), m.clock())[1],
    )
    same("seconds a call in rounds of at least 1 s", got, np.full(5, 0.25))
    # 3 to warm up, trials of 1, 2 and 4, then five rounds of 4.
    same("calls in all: warmup=3, least=1.0, 0.25 s a call, rounds=5", len(calls), 3 + 7 + 20)
    expect(len(reads) <= 16, f"the clock was read {len(reads)} times for 3 trials and 5 rounds")
    m, calls = Machine(), []
    queued = m.queued(250e-6)
    got = work.seconds_a_call(
        lambda: calls.append(queued()), rounds=2, least=1e-3, wait=m.wait, clock=m.clock
    )
    same("calls in all on a device: least=1e-3, 250 us a call, rounds=2", len(calls), 1 + 7 + 8)
    # A round waits once, for four calls: the device never stands idle between them.
    same("seconds a call in rounds of 4 on a device", got, np.full(2, 250.25e-6), 1e-6)


def check_turns(work):
    m = Machine()
    got = work.ratio_by_turns(m.work(2.0), m.work(3.0), rounds=6, clock=m.clock)
    same("percentiles of the ratio 3 s over 2 s", got, np.full(3, 1.5))
    m = Machine(compile_seconds=50.0)
    got = work.ratio_by_turns(m.work(2.0), m.work(3.0), rounds=4, clock=m.clock)
    same("the ratio where each first call takes 50 s more", got, np.full(3, 1.5))
    m = Machine(drift=0.02)
    low, median, high = work.ratio_by_turns(m.work(1.0), m.work(1.0), rounds=40, clock=m.clock)
    expect(
        abs(median - 1) < 2e-3,
        f"on a machine that slows down, the median ratio of equal work is {median:.4f}, not 1",
    )
    # The two orders err to the two sides, by about one call's drift.
    expect(low < 1 < high, f"with both orders, ratios lie on both sides of 1, not {low} to {high}")
    m = Machine(drift=0.02)
    call = m.work(1.0)
    low, _, high = work.ratio_by_turns(call, call, rounds=40, clock=m.clock)
    expect(low < 1 < high, f"a function beside itself: its ratios vary, too, not {low} to {high}")
    m = Machine(pauses=range(4, 60, 10))
    got = work.ratio_by_turns(m.work(2.0), m.work(3.0), rounds=30, clock=m.clock)
    same("the median ratio with a pause in every fifth round", got[1], 1.5)
    order, m = [], Machine()
    a, b = m.work(1.0), m.work(1.0)
    work.ratio_by_turns(
        lambda: (order.append("a"), a()), lambda: (order.append("b"), b()), 3, clock=m.clock
    )
    order = "".join(order)
    expect(sorted(order[:2]) == ["a", "b"], f"one untimed call each, then rounds: {order}")
    expect(order[2:] == "abbaab", f"after one untimed call each, three rounds came as {order[2:]}")
    m = Machine()
    got = work.ratio_by_turns(*_rounds(m, [1, 1, 10, 1, 40] * 3, [3] * 15), 14, clock=m.clock)
    same("the ratio 3, on a machine that is slower in some rounds", got, np.full(3, 3.0))
    m = Machine()
    got = work.ratio_by_turns(*_rounds(m, [1] * 12, range(12)), 11, clock=m.clock)
    same("percentiles of the ratios 1 to 11", got, np.array([3.0, 6.0, 9.0]))


def _rounds(m, slow, ratios):
    """Two functions: in the i-th round `a` takes slow[i] s, `b` ratios[i] times that."""

    def function(seconds):
        state = iter(seconds)

        def call():
            m.now += next(state)

        return call

    return function(slow), function([s * r for s, r in zip(slow, ratios)])


def check_interval(work):
    rng = np.random.default_rng(0)
    for n in (6, 7, 9, 20, 25, 100, 301):
        for confidence in (0.95, 0.5):
            samples = rng.exponential(size=n)
            ordered = np.sort(samples)
            ways = np.array([comb(n, i) / 2**n for i in range(n // 2)]).cumsum()
            k = int(np.searchsorted(2 * ways, 1 - confidence, side="right"))
            kept = samples.copy()
            got = work.median_interval(samples, confidence)
            got = tuple(got) if isinstance(got, np.ndarray) else got
            same(f"interval of {n} samples, {confidence}", got, (ordered[k - 1], ordered[n - k]))
            same("the samples afterwards", samples, kept)
    for n in (5, 1, 0):
        refuses(f"five samples or fewer, here {n},", work.median_interval, np.arange(n))
    refuses("6 samples at 0.99", work.median_interval, np.arange(6), 0.99)


def check_share(work):
    def share(what, nbytes, flops, seconds, wanted, limit):
        got = work.share_of_limit(nbytes, flops, seconds, 10e9, 100e9)  # 10 GB/s, 100 GFLOP/s
        expect(isinstance(got, tuple) and len(got) == 2, f"{what}: got {got}, expected two things")
        same(f"the share of {what}", got[0], wanted)
        expect(got[1] == limit, f"{what} is held to {limit!r}, not to {got[1]!r}")

    share("8 GB and 1 GFLOP in 1 s", 8e9, 1e9, 1.0, 0.8, "copy")
    share("8 GB and 9 GFLOP in 2 s", 8e9, 9e9, 2.0, 0.4, "copy")
    share("1 GB and 90 GFLOP in 1 s", 1e9, 90e9, 1.0, 0.9, "GEMM")
    share("10 GB and 100 GFLOP in 2 s", 10e9, 100e9, 2.0, 0.5, "copy")
    share("15 GB and 1 GFLOP in 1 s", 15e9, 1e9, 1.0, 1.5, "cache")
    share("104 GFLOP in 1 s", 0, 104e9, 1.0, 1.04, "GEMM")
    share("104 GFLOP and 10.2 GB in 1 s", 10.2e9, 104e9, 1.0, 1.04, "cache")
    limits = 10e9, 100e9
    refuses("106 GFLOP in 1 s at 100 GFLOP/s", work.share_of_limit, 1e9, 106e9, 1.0, *limits)
    refuses("a time of 0 s", work.share_of_limit, 1e9, 1e9, 0.0, *limits)
    refuses("a negative time", work.share_of_limit, 1e9, 1e9, -1.0, *limits)
