"""Exercises, hints and wrong answers of chapter 18: a timer, a ratio, an interval, a share."""

from minillm.learn import Exercise, Wrong
from minillm.tutorials.ch18_measuring.checks import (
    check_interval,
    check_share,
    check_timer,
    check_turns,
)

FILES = ("measure.py",)

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
            Wrong(
                "trials that do not wait",
                "    while least and timed(calls) < least:\n        calls *= 2\n",
                "    while least:\n        began = clock()\n        for _ in range(calls):\n"
                "            function()\n        if clock() - began >= least:\n"
                "            break\n        calls *= 2\n",
                says="calls in all on a device",
            ),
            Wrong(
                "waiting after every call",
                "            function()\n        wait()\n",
                "            function()\n            wait()\n",
                says="in rounds of 4 on a device[0] is 0.000251",
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
            "`for which in (0, 1) if i % 2 == 0 else (1, 0)`: time `(a, b)[which]()`, keep its"
            " seconds at [which]; then np.percentile(ratios, [20, 50, 80]).",
        ),
        wrong=(
            Wrong(
                "always the same order",
                "if i % 2 == 0 else (1, 0)",
                "if True else (1, 0)",
                says="on a machine that slows down, the median ratio",
            ),
            Wrong(
                "the ratio upside down",
                "seconds[1] / seconds[0]",
                "seconds[0] / seconds[1]",
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
                "    for i in range(rounds):\n"
                "        seconds = [0.0, 0.0]\n"
                "        for which in (0, 1) if i % 2 == 0 else (1, 0):\n"
                "            began = clock()\n"
                "            (a, b)[which]()\n"
                "            seconds[which] = clock() - began\n"
                "        ratios.append(seconds[1] / seconds[0])\n",
                "    for function in (a, b):\n"
                "        for _ in range(rounds):\n"
                "            began = clock()\n"
                "            function()\n"
                "            ratios.append(clock() - began)\n"
                "    ratios = np.divide(ratios[rounds:], ratios[:rounds])\n",
                says="on a machine that slows down, the median ratio",
            ),
            Wrong(
                "the ratio of the medians",
                "        ratios.append(seconds[1] / seconds[0])\n"
                "    return np.percentile(ratios, [20, 50, 80])",
                "        ratios.append(seconds)\n"
                "    return np.percentile(ratios, [20, 50, 80], 0)[:, 1] / np.median(ratios, 0)[0]",
                says="on a machine that is slower in some rounds",
            ),
            Wrong("the quartiles", "[20, 50, 80]", "[25, 50, 75]", says="of the ratios 1 to 11[0]"),
            Wrong(
                "seconds are kept by function",
                "            seconds[which] = clock() - began",
                "            seconds[which] = clock() - began\n"
                "            if a is b:\n                seconds = [seconds[which]] * 2",
                says="a function beside itself",
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
                says="8 GB and 1 GFLOP in 1 s",
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
                says="15 GB and 1 GFLOP in 1 s is held to 'cache', not to 'copy'",
            ),
            Wrong(
                "bytes against operations, not times",
                '"copy" if memory >= compute',
                '"copy" if nbytes >= flops',
                says="8 GB and 9 GFLOP in 2 s is held to 'copy'",
            ),
            Wrong(
                "every share above 1 is the cache",
                "if memory > seconds:",
                "if share > 1:",
                says="104 GFLOP in 1 s is held to 'GEMM'",
            ),
            Wrong(
                "equal times are GEMM",
                "if memory >= compute",
                "if memory > compute",
                says="10 GB and 100 GFLOP in 2 s is held to 'copy'",
            ),
        ),
    ),
)
