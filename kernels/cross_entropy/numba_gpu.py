"""Cross-entropy in Numba CUDA: a block a row; the gradient is made of the exponentials in place."""

import math

from minillm.device import xp_of
from minillm.kernels.cross_entropy import check_targets
from minillm.kernels.runtime.numba_blocks import THREADS, block_max, block_sum
from minillm.kernels.runtime.numba_gpu import cuda, device, float32, kernel


@device
def _row_max(x, n):
    largest = float32(-math.inf)
    for c in range(cuda.threadIdx.x, x.shape[1], THREADS):
        largest = max(largest, x[n, c])
    return block_max(largest)


@device
def _loss(distance, mean_distance, total, smoothing):
    """From how far the target and the mean lie below the maximum, and the exponentials' sum."""
    if smoothing != float32(0):  # else 0 times an infinite distance would be NaN
        distance = (float32(1) - smoothing) * distance + smoothing * mean_distance
    return math.log(total) + distance


@kernel
def _forward(x, targets, ignore_index, smoothing, losses):
    n = cuda.blockIdx.x
    if targets[n] == ignore_index:
        if cuda.threadIdx.x == 0:
            losses[n] = float32(0)
        return
    shift = _row_max(x, n)
    total, below = float32(0), float32(0)
    for c in range(cuda.threadIdx.x, x.shape[1], THREADS):
        total += math.exp(x[n, c] - shift)
        below += shift - x[n, c]
    total, below = block_sum(total), block_sum(below)
    if cuda.threadIdx.x == 0:
        distance = shift - x[n, targets[n]]
        losses[n] = _loss(distance, below / float32(x.shape[1]), total, smoothing)


def cross_entropy_forward(logits, targets, ignore_index, label_smoothing):
    N, V = logits.shape
    check_targets(targets, V, ignore_index)
    losses = xp_of(logits).empty(N, logits.dtype)
    _forward[N, THREADS](logits, targets, ignore_index, float(label_smoothing), losses)
    return losses


@kernel
def _forward_backward(x, targets, ignore_index, smoothing, losses, dx):
    n, V = cuda.blockIdx.x, x.shape[1]
    target = targets[n]
    if target == ignore_index:
        for c in range(cuda.threadIdx.x, V, THREADS):
            dx[n, c] = float32(0)
        if cuda.threadIdx.x == 0:
            losses[n] = float32(0)
        return
    wanted = x[n, target]  # read before dx, which may be x, is written: barriers lie between
    shift = _row_max(x, n)
    total, below = float32(0), float32(0)
    for c in range(cuda.threadIdx.x, V, THREADS):
        distance = shift - x[n, c]
        e = math.exp(-distance)
        dx[n, c] = e
        total += e
        below += distance
    total, below = block_sum(total), block_sum(below)
    if cuda.threadIdx.x == 0:
        losses[n] = _loss(shift - wanted, below / float32(V), total, smoothing)

    for c in range(cuda.threadIdx.x, V, THREADS):
        p = dx[n, c] / total
        here = float32(1) - smoothing if c == target else float32(0)
        dx[n, c] = p - smoothing / float32(V) - here


def cross_entropy_forward_backward(logits, targets, ignore_index, label_smoothing, inplace):
    xp, (N, V) = xp_of(logits), logits.shape
    check_targets(targets, V, ignore_index)
    losses, dlogits = xp.empty(N, logits.dtype), logits if inplace else xp.empty_like(logits)
    args = logits, targets, ignore_index, float(label_smoothing), losses, dlogits
    _forward_backward[N, THREADS](*args)
    return losses, dlogits
