"""Cross-entropy with Numba: rows over threads, the gradient made of the exponentials in place."""

import numpy as np

from minillm.kernels.cross_entropy import check_targets
from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel, rows_worth_a_thread
from minillm.kernels.runtime.vmath import amax, exp


@jit
def _distance(row, target, shift, smoothing):
    """How far below its maximum a row is where it should be high: its loss but for log total."""
    V = row.size
    distance = shift - row[target]
    if smoothing != 0:  # else 0 times an infinite distance would be NaN
        away = row.dtype.type(0)
        for c in range(V):
            away += shift - row[c]
        mean = away / row.dtype.type(V)
        distance = (row.dtype.type(1) - smoothing) * distance + smoothing * mean
    return distance


@jit
def _forward(start, stop, logits, targets, ignore_index, label_smoothing, losses):
    V = logits.shape[1]
    smoothing = logits.dtype.type(label_smoothing)
    for n in range(start, stop):
        if targets[n] == ignore_index:
            losses[n] = 0
            continue
        row = logits[n]
        shift = amax(row)
        total = row.dtype.type(0)
        for c in range(V):
            total += exp(row[c] - shift)
        losses[n] = np.log(total) + _distance(row, targets[n], shift, smoothing)


def cross_entropy_forward(logits, targets, ignore_index, label_smoothing):
    N, V = logits.shape
    check_targets(targets, V, ignore_index)
    losses = np.empty(N, logits.dtype)
    args = logits, targets, ignore_index, float(label_smoothing), losses
    parallel(_forward, N, rows_worth_a_thread(V), *args)
    return losses


@jit
def _forward_backward(
    start, stop, logits, targets, ignore_index, label_smoothing, losses, dlogits, inplace
):
    V = logits.shape[1]
    smoothing, one = logits.dtype.type(label_smoothing), logits.dtype.type(1)
    floor = smoothing / logits.dtype.type(V)
    for n in range(start, stop):
        row, out = logits[n], dlogits[n]
        if targets[n] == ignore_index:
            losses[n] = 0
            out[:] = 0
            continue
        shift = amax(row)
        distance = _distance(row, targets[n], shift, smoothing)  # before the row is overwritten
        total = row.dtype.type(0)
        if inplace:  # a loop of its own, of one array: of two that overlap none vectorises
            for c in range(V):
                e = exp(out[c] - shift)
                out[c] = e
                total += e
        else:
            for c in range(V):
                e = exp(row[c] - shift)
                out[c] = e
                total += e
        losses[n] = np.log(total) + distance
        scale = one / total
        for c in range(V):
            out[c] = out[c] * scale - floor
        out[targets[n]] -= one - smoothing


def cross_entropy_forward_backward(logits, targets, ignore_index, label_smoothing, inplace):
    N, V = logits.shape
    check_targets(targets, V, ignore_index)
    losses, dlogits = np.empty(N, logits.dtype), logits if inplace else np.empty_like(logits)
    args = logits, targets, ignore_index, float(label_smoothing), losses, dlogits, bool(inplace)
    parallel(_forward_backward, N, rows_worth_a_thread(V), *args)
    return losses, dlogits
