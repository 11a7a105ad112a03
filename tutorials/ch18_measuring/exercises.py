"""Checks, hints and wrong answers of chapter 18."""

import importlib.util
from math import comb
from pathlib import Path

import numpy as np

from minillm.learn import Exercise, Wrong, expect, refuses, same

FILES = ("measure.py",)

_spec = importlib.util.spec_from_file_location("ch18_machine", Path(__file__).parent / "machine.py")
_machine = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_machine)
Machine = _machine.Machine


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
    m, calls = Machine(), []
    timed = m.work(0.25)
    got = work.seconds_a_call(
        lambda: calls.append(timed()), rounds=5, warmup=3, least=1.0, clock=m.clock
    )
    same("seconds a call in rounds of at least 1 s", got, np.full(5, 0.25))
    # 3 to warm up, trials of 1, 2 and 4, then five rounds of 4.
    same("calls in all: warmup=3, least=1.0, 0.25 s a call, rounds=5", len(calls), 3 + 7 + 20)


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
    m = Machine(pauses=range(4, 60, 10))
    got = work.ratio_by_turns(m.work(2.0), m.work(3.0), rounds=30, clock=m.clock)
    same("the median ratio with a pause in every fifth round", got[1], 1.5)
    order = []
    m = Machine()
    a, b = m.work(1.0), m.work(1.0)
    work.ratio_by_turns(
        lambda: (order.append("a"), a()), lambda: (order.append("b"), b()), 3, clock=m.clock
    )
    expect("".join(order) == "abab" + "ba" + "ab", f"the calls came as {''.join(order)}")


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
            same(f"interval of {n} samples, {confidence}", got, (ordered[k - 1], ordered[n - k]))
            same("the samples afterwards", samples, kept)
    for n in (5, 1, 0):
        refuses(f"five samples or fewer, here {n},", work.median_interval, np.arange(n))
    refuses("6 samples at 0.99", work.median_interval, np.arange(6), 0.99)


def check_share(work):
    share = work.share_of_limit
    same("a copy of 8 GB in 1 s at 10 GB/s", share(8e9, 1e9, 1.0, 10e9, 100e9)[0], 0.8)
    expect(share(8e9, 1e9, 1.0, 10e9, 100e9)[1] == "copy", "8 GB and 1 GFLOP are bound by the copy")
    same("90 GFLOP in 1 s at 100 GFLOP/s", share(1e9, 90e9, 1.0, 10e9, 100e9)[0], 0.9)
    expect(share(1e9, 90e9, 1.0, 10e9, 100e9)[1] == "GEMM", "1 GB and 90 GFLOP are bound by GEMM")
    same("the share of 15 GB in 1 s at 10 GB/s", share(15e9, 1e9, 1.0, 10e9, 100e9)[0], 1.5)
    name = share(15e9, 1e9, 1.0, 10e9, 100e9)[1]
    expect(name == "cache", f"15 GB in 1 s at 10 GB/s came from the cache, not from the {name}")
    same("a time of 2 s", share(8e9, 1e9, 2.0, 10e9, 100e9)[0], 0.4)
    same("104 GFLOP in 1 s at 100 GFLOP/s", share(0, 104e9, 1.0, 10e9, 100e9)[0], 1.04)
    refuses("106 GFLOP in 1 s at 100 GFLOP/s", share, 1e9, 106e9, 1.0, 10e9, 100e9)
    refuses("a time of 0 s", share, 1e9, 1e9, 0.0, 10e9, 100e9)
    refuses("a negative time", share, 1e9, 1e9, -1.0, 10e9, 100e9)


EXERCISES = (
    Exercise(
        "A timer that waits",
        check_timer,
        hints=(
            "Four things make a first naive timing wrong: the first call, the clock's resolution,"
            " work that has only been queued, and work that was queued before.",
            "Write one inner function that times a number of calls: wait, read the clock, call,"
            " wait, read the clock. Use it for the trials and for the rounds.",
            "After the warm-up: `calls = 1; while least and timed(calls) < least: calls *= 2`; then"
            " timed(calls) / calls, `rounds` times.",
        ),
        wrong=(
            Wrong("no warm-up", "range(warmup)", "range(0)", says="where the first takes 30 s"),
            Wrong(
                "launches are timed, not work",
                "            function()\n        wait()\n",
                "            function()\n",
                says="only told what to do[0] is 1e-06",
            ),
            Wrong(
                "the warm-up's work falls into the first round",
                "        wait()\n        began = clock()",
                "        began = clock()",
                says="only told what to do[0] is 34",
            ),
            Wrong("forgotten 1/calls", ") / calls for", ") for", says="rounds of at least 1 s"),
            Wrong("trials stop at two", "timed(calls) < least", "calls < 2", says="calls in all"),
        ),
    ),
    Exercise(
        "A ratio by turns",
        check_turns,
        hints=(
            "Which of two calls is slower must not depend on when they ran.",
            "Take the ratio inside each round, where both calls saw the same machine; and change"
            " the order from round to round, so that what slows the second call hurts both alike.",
            "`order = (a, b) if i % 2 == 0 else (b, a)`; keep the seconds of each by function; then"
            " np.percentile(ratios, [20, 50, 80]).",
        ),
        wrong=(
            Wrong(
                "always the same order",
                "if i % 2 == 0 else (b, a)",
                "if True else (b, a)",
                says="on a machine that slows down, the median ratio",
            ),
            Wrong(
                "the ratio upside down",
                "seconds[b] / seconds[a]",
                "seconds[a] / seconds[b]",
                says="is 0.6666667, expected 1.5",
            ),
            Wrong("no warm-up", "    a()\n    b()\n", "", says="each first call takes 50 s more"),
            Wrong(
                "the mean of the ratios in the middle",
                "return np.percentile(ratios, [20, 50, 80])",
                "low, _, high = np.percentile(ratios, [20, 50, 80])\n"
                "    return np.array([low, np.mean(ratios), high])",
                says="with a pause in every fifth round",
            ),
            Wrong(
                "first all of a, then all of b",
                "order = (a, b) if i % 2 == 0 else (b, a)",
                "order = (a, b)\n        m = [a, b]\n        order = (m[i * 2 // rounds],) * 2",
                says="KeyError",
            ),
        ),
    ),
    Exercise(
        "How sure is a median",
        check_interval,
        hints=(
            "How many of n samples fall below the true median? Each does with probability 1/2.",
            "The k-th smallest sample is above the median if fewer than k samples are below it:"
            " sum comb(n, i) / 2**n for i < k. Both ends together may have 1 - confidence.",
            "Raise k while 2 * (sum for i < k) <= 1 - confidence; then with the samples sorted,"
            " s[k - 1] and s[n - k].",
        ),
        wrong=(
            Wrong("one end only", "if 2 * below", "if below", says="interval of 6 samples, 0.5"),
            Wrong("off by one", "ordered[k - 1]", "ordered[k]", says="interval of 6 samples, 0.95"),
            Wrong(
                "the samples are not sorted",
                "np.sort(np.asarray(samples))",
                "np.asarray(samples)",
                says="interval of 6 samples",
            ),
            Wrong(
                "too few samples pass",
                "    if k == 0:",
                "    k = max(k, 1)\n    if k == 0:",
                says="here 5, must raise ValueError",
            ),
        ),
    ),
    Exercise(
        "The share of the limit",
        check_share,
        hints=(
            "What is the least time that the bytes need, and the operations? Both must fit in.",
            "max(nbytes / copy_rate, flops / gemm_rate) / seconds. A share over 1 by operations is"
            " impossible; by bytes it means that they came from somewhere nearer than memory.",
            "First raise ValueError for seconds <= 0 and for flops / seconds > 1.05 * gemm_rate;"
            ' then "cache" if nbytes / copy_rate > seconds.',
        ),
        wrong=(
            Wrong(
                "the nearer limit instead of the binding one",
                "max(memory, compute)",
                "min(memory, compute)",
                says="a copy of 8 GB in 1 s",
            ),
            Wrong(
                "the sum of both times",
                "max(memory, compute)",
                "(memory + compute)",
                says="is 0.81, expected 0.8",
            ),
            Wrong(
                "impossible rates pass",
                "flops / seconds > 1.05 * gemm_rate",
                "False",
                says="106 GFLOP in 1 s at 100 GFLOP/s must raise ValueError",
            ),
            Wrong(
                "a time of nothing passes",
                "not seconds > 0",
                "seconds < 0",
                says="ZeroDivisionError",
            ),
            Wrong(
                "the cache is not noticed",
                "if memory > seconds:",
                "if False:",
                says="came from the cache, not from the copy",
            ),
        ),
    ),
)
