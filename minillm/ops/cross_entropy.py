"""Cross-entropy of integer targets, fused: softmax, logarithm, loss and gradient in one pass.

With logits x, p = softmax(x) and label smoothing e (Szegedy et al. 2015, arXiv 1512.00567), which
moves e of the target's probability evenly to all V classes, q = (1 - e) [c = t] + e / V:

    loss_n = -sum_c q_nc log p_nc = log sum_c e^(x_nc) - sum_c q_nc x_nc

Since d log sum e^x / dx = p, and g_n is the gradient of one row's loss (dy for "none" and "sum", dy
over the number of targets that are not ignored for "mean"; rows of ignored targets have loss 0),

    dx_nc = g_n (p_nc - q_nc)

Shapes: logits `(V,)`, `(N, V)` or `(B, V, ...)`; targets the same without V; the loss 0-d, or
shaped as the targets for "none". Saved: p - q, which the forward writes while the row is in cache
(only if `with_grad`), so that the logits can be freed. Backward multiplies it by g in place. A
later backward through the same graph starts from that product: it divides the first g out again,
into a new array.
"""

from minillm.device import xp_of
from minillm.kernels.cross_entropy import cross_entropy_forward, cross_entropy_forward_backward
from minillm.ops.losses import check_reduction, class_gradient, class_rows, over
from minillm.ops.op import Op


def _can_divide_out(g):
    """Whether g is far from 0, infinity and NaN, so that x g g' / g is x g' to the last digits."""
    size = abs(g)
    return bool(((size > 1e-18) & (size < 1e18)).all())


class CrossEntropy(Op):
    """loss_n = -sum_c q_nc log softmax(x_n)_c, reduced."""

    @staticmethod
    def forward(logits, targets, *, ignore_index, label_smoothing, reduction, with_grad):
        check_reduction("cross_entropy", reduction)
        shape, target_shape = logits.shape, targets.shape
        rows, targets, dim = class_rows("cross_entropy", logits, targets)  # (N, V)
        arguments = rows, targets, ignore_index, label_smoothing
        if with_grad:
            losses, dlogits = cross_entropy_forward_backward(*arguments)  # (N,), (N, V)
        else:
            losses, dlogits = cross_entropy_forward(*arguments), None  # (N,)
        count = (targets != ignore_index).sum()
        saved = ([dlogits, None], count, reduction, shape, dim)
        if reduction == "none":
            return losses.reshape(target_shape), saved
        return over(losses.sum(), count) if reduction == "mean" else losses.sum(), saved

    @staticmethod
    def backward(dy, saved, needs):
        held, count, reduction, shape, dim = saved
        dlogits, before = held  # before: the g that is in dlogits already
        xp = xp_of(dy)
        if reduction == "none":
            g = dy.reshape(-1, 1)  # (N, 1)
        elif reduction == "mean":
            g = dy / xp.maximum(count, 1).astype(dy.dtype)
        else:
            g = dy
        if before is not None:
            dlogits = dlogits * (g / before)
        elif _can_divide_out(g):
            dlogits *= g
            held[1] = g.copy()  # dy may be the caller's array
        else:
            dlogits = dlogits * g
        return class_gradient(dlogits, shape, dim), None
