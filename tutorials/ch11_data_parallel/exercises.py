"""Exercises, hints and wrong answers of chapter 11: data parallelism."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minillm.learn import Exercise, Plug, Wrong
from minillm.tutorials.ch11_data_parallel.checks import (
    check_average,
    check_buckets,
    check_overlapped,
    check_replicas,
)

FILES = ("data_parallel.py",)

EXERCISES = (
    Exercise(
        "Divide by the tokens of all ranks",
        check_average,
        hints=(
            "Which two sums over ranks does equation (2) need?",
            "all_reduce takes arrays: put the count into one of a single int64, which counts"
            " exactly.",
            "count = np.array([tokens], np.int64); all_reduce(comm, count); all_reduce(comm, grad);"
            " grad /= count[0]",
        ),
        wrong=(
            Wrong(
                "the mean of means",
                "    all_reduce(comm, grad)\n    grad /= count[0]",
                "    grad /= max(tokens, 1)\n    all_reduce(comm, grad)\n    grad /= comm.size",
                says="tokens [1, 7]: the gradient on rank 0[0] is",
            ),
            Wrong(
                "divides by its own tokens",
                "grad /= count[0]",
                "grad /= tokens",
                says="tokens [4, 4]: the gradient on rank 0[0] is",
            ),
            Wrong(
                "counts in float32",
                "np.array([tokens], np.int64)",
                "np.array([tokens], np.float32)",
                says="tokens [16777216, 1]",
            ),
            Wrong(
                "does not sum the gradient",
                "    all_reduce(comm, grad)\n",
                "",
                says="tokens [4, 4]: the gradient on rank 0[0] is",
            ),
        ),
    ),
    Exercise(
        "Buckets, from the last layer to the first",
        check_buckets,
        hints=(
            "Walk through the parameters in the order in which backward completes them.",
            "Append to a bucket; once it has bucket_bytes or more, put it away and begin another.",
            "for i in reversed(range(len(sizes))): bucket.append(i); if it is full:"
            " buckets.append(bucket); bucket = []. At the end, keep one that is not empty.",
        ),
        wrong=(
            Wrong(
                "the order of the model",
                "in reversed(range(len(sizes)))",
                "in range(len(sizes))",
                says="is [[0, 1, 2], [3]], expected [[3, 2], [1, 0]]",
            ),
            Wrong(
                "counts elements, not bytes",
                "sizes[i] * itemsize",
                "sizes[i]",
                says="expected [[3, 2], [1, 0]]",
            ),
            Wrong(
                "forgets the last bucket",
                "return buckets + [bucket] if bucket else buckets",
                "return buckets",
                says="is [[3, 2]], expected [[3, 2], [1, 0]]",
            ),
            Wrong(
                "an empty bucket at the end",
                "return buckets + [bucket] if bucket else buckets",
                "return buckets + [bucket]",
                says="expected [[3], [2], [1, 0]]",
            ),
            Wrong(
                "more than bucket_bytes",
                "nbytes >= bucket_bytes",
                "nbytes > bucket_bytes",
                says="280) is [[3, 2, 1], [0]], expected [[3, 2], [1, 0]]",
            ),
        ),
    ),
    Exercise(
        "Sum while backward runs",
        check_overlapped,
        hints=(
            "Two things happen at `ready`: a parameter is crossed off, and perhaps buckets can"
            " start. Look only at the next bucket in line, not at the one that has changed.",
            "while the next bucket (self.owed[self.started], if there is one) owes nothing:"
            " self.start_next(). Then poll. `finish` starts all that is left before it waits.",
            "ready: if not self.sync: return; discard i from each set in self.owed; the while loop;"
            " self.progress.poll(). finish: start_next() until all have started;"
            " self.progress.wait(); self.reset().",
        ),
        wrong=(
            Wrong(
                "waits at once",
                "        self.progress.poll()",
                "        self.progress.wait()",
                says="ready waits for another rank",
            ),
            Wrong(
                "forgets the rest",
                "        while self.started < len(self.buckets):\n            self.start_next()\n",
                "",
                says="backward does not reach parameters 2 and 0: the sums on rank 0",
            ),
            Wrong(
                "sums under no_sync",
                "        if not self.sync:\n            return\n",
                "",
                says="under no_sync rank 0 of 2 has sent",
            ),
            Wrong(
                "starts whichever bucket is complete",
                "        while self.started < len(self.buckets) and not self.owed[self.started]:\n"
                "            self.start_next()\n",
                "        for k, owed in enumerate(self.owed):\n"
                "            if i in self.buckets[k] and not owed:\n"
                "                steps = all_reduce.steps(self.comm, self.flats[k], tag=k)\n"
                "                self.progress.start(steps)\n"
                "                self.started += 1\n",
                says="messages of buckets [1] were sent: a bucket starts when",
            ),
            Wrong(
                "starts all when one is ready",
                "len(self.buckets) and not self.owed[self.started]:",
                "len(self.buckets):",
                says="messages of buckets [0, 1, 2] were sent: a bucket starts when",
            ),
            Wrong(
                "only once",
                "        self.progress.wait()\n        self.reset()",
                "        self.progress.wait()",
                says="the sums of the second step on rank 0 of 2",
            ),
            Wrong(
                "only at the end",
                "        while self.started < len(self.buckets) and not self.owed[self.started]:\n"
                "            self.start_next()\n",
                "",
                says="but messages of buckets [] were sent",
            ),
            Wrong(
                "one bucket at a time",
                "while self.started < len(self.buckets) and not",
                "if self.started < len(self.buckets) and not",
                says="but messages of buckets [0] were sent",
            ),
            Wrong(
                "does not poll",
                "        self.progress.poll()\n",
                "",
                says="each call must move on what is under way",
            ),
        ),
        limit=10,
    ),
    Exercise(
        "Are the copies the same?",
        check_replicas,
        hints=(
            "A sum of floats rounds: a small change in a small number is lost beside a large one."
            " What is exact?",
            'array.view("uint32") shows the bits of float32 as integers, which wrap around when'
            " summed. all_gather gives every rank the sums of all.",
            'bits = array.reshape(-1).view(f"uint{8 * array.itemsize}"); bits.sum(dtype=bits.dtype)'
            "; np.unique(sums, return_counts=True) finds the majority's.",
        ),
        wrong=(
            Wrong(
                "sums the numbers",
                "return int(bits.sum(dtype=bits.dtype))",
                "return float(np.float64(array.sum()))",
                says="does not see bit 0 of element",
            ),
            Wrong(
                "the lowest byte of each element",
                "return int(bits.sum(dtype=bits.dtype))",
                "return int((bits & 255).sum(dtype=bits.dtype))",
                says="does not see bit 16 of element 0 flipped",
            ),
            Wrong(
                "believes rank 0",
                "if sums[rank] != values[counts.argmax()]]",
                "if sums[rank] != sums[0]]",
                says="[0] differ, float32: on rank 0 odd_ones_out is [1, 2, 3]",
            ),
            Wrong(
                "no majority",
                "    if 2 * counts.max() <= comm.size:\n        return list(range(comm.size))\n",
                "",
                says="2 ranks, of which [0, 1] differ",
            ),
            Wrong(
                "signed integers",
                'view(f"uint{8 * array.itemsize}")',
                'view(f"int{8 * array.itemsize}")',
                says="as unsigned integers, modulo 2^32",
            ),
            Wrong(
                "gathers checksums as floats",
                "np.zeros(comm.size, np.uint64)",
                "np.zeros(comm.size)",
                says="[0] differ, float64: on rank 0 odd_ones_out is []",
            ),
        ),
        limit=10,
    ),
)


# --- in the place of the engine's, in minillm/distributed/ddp.py and checksum.py ------------------


def as_buckets(assign: Callable) -> Callable:
    """The engine lays gradients out from the last parameter to the first and cuts there."""
    from minillm.distributed.ddp import _Bucket

    def buckets(group: Any, bucket_bytes: int) -> list:
        last = len(group.params) - 1
        sizes = [p.data.size for p in reversed(group.params)]
        numbers = assign(sizes, group.grad.itemsize, bucket_bytes)
        return [_Bucket(group, last - each[0], last - each[-1] + 1) for each in numbers]

    return buckets


def _yours(ddp: Any, kind: type) -> Any:
    """The learner's object that does the work of this DistributedDataParallel."""
    if not hasattr(ddp, "yours"):
        flats = [bucket.grad for bucket in ddp.buckets]
        owned = [[id(p) for p in bucket.params] for bucket in ddp.buckets]
        ddp.yours = kind(ddp.comm, flats, owned)
    return ddp.yours


def as_hook(kind: type) -> Callable:
    """What backward calls for each gradient: `ready`."""

    def complete(ddp: Any, index: int, p: Any) -> None:
        if p.grad is not None:
            yours = _yours(ddp, kind)
            yours.sync = ddp._sync
            yours.ready(id(p))

    return complete


def as_finish(kind: type) -> Callable:
    """What ends a step: `finish`."""

    def finish(ddp: Any) -> None:
        began = time.perf_counter()
        for group in ddp.groups:
            group.fill_missing_grads()
        ddp.sum_late()
        _yours(ddp, kind).finish()
        ddp.exposed_seconds += time.perf_counter() - began

    return finish


def as_checksums(checksum: Callable) -> Callable:
    """Of several arrays at once."""
    return lambda arrays: np.array([checksum(array) for array in arrays], np.uint64)


_DDP = "minillm.distributed.ddp"
PLUGS = (
    Plug("assign_buckets", f"{_DDP}:_buckets", 2, as_buckets),
    Plug("OverlappedSum", f"{_DDP}:DistributedDataParallel._complete", 3, as_hook),
    Plug("OverlappedSum", f"{_DDP}:DistributedDataParallel.finish", 3, as_finish),
    Plug(
        "checksum",
        "minillm.distributed.checksum:checksums",
        4,
        as_checksums,
        "--checksum_interval 1",
    ),
)
