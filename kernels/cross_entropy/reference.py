"""Cross-entropy as the formula says, in NumPy or CuPy."""

from minillm.device import xp_of
from minillm.kernels.cross_entropy import check_targets
from minillm.kernels.runtime.precision import float_like


def _log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - xp_of(x).log(xp_of(x).exp(x).sum(-1, keepdims=True))


def cross_entropy_forward(logits, targets, ignore_index, label_smoothing):
    N, V = logits.shape
    check_targets(targets, V, ignore_index)
    xp = xp_of(logits)
    logp = _log_softmax(float_like(logits)[1][0])
    counted = targets != ignore_index
    losses = -logp[xp.arange(N), xp.where(counted, targets, 0)]
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * logp.mean(-1)
    return xp.where(counted, losses, 0)


def cross_entropy_forward_backward(logits, targets, ignore_index, label_smoothing, inplace):
    losses = cross_entropy_forward(logits, targets, ignore_index, label_smoothing)
    xp, (N, V) = xp_of(logits), logits.shape
    dtype, (x,) = float_like(logits)
    counted = targets != ignore_index
    dx = xp.exp(_log_softmax(x)) - label_smoothing / V
    dx[xp.arange(N), xp.where(counted, targets, 0)] -= 1 - label_smoothing
    dx = xp.where(counted[:, None], dx, 0).astype(dtype)
    if inplace:
        logits[...] = dx
    return losses, logits if inplace else dx
