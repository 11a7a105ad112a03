"""Cross-entropy of integer targets, fused: softmax, logarithm, loss and gradient in one pass.

With logits x, p = softmax(x) and label smoothing e (Szegedy et al. 2015, arXiv 1512.00567), which
moves e of the target's probability evenly to all V classes, q = (1 - e) [c = t] + e / V:

    loss_n = -sum_c q_nc log p_nc = log sum_c e^(x_nc) - sum_c q_nc x_nc

Since d log sum e^x / dx = p, and g_n is the gradient of one row's loss (dy for "none" and "sum", dy
over the number of targets that are not ignored for "mean"; rows of ignored targets have loss 0),

    dx_nc = g_n (p_nc - q_nc)

Shapes: logits `(V,)`, `(N, V)` or `(B, V, ...)`; targets the same without V; the loss 0-d, or
shaped as the targets for "none". Saved: p - q, which the forward writes while the row is in cache
(only if `with_grad`), so that the logits can be freed; with `inplace` it takes their memory.
Backward multiplies it by g in place. Nothing here reads a value back: a GPU is not waited for.
"""

from minillm.device import xp_of
from minillm.kernels.cross_entropy import cross_entropy_forward, cross_entropy_forward_backward
from minillm.ops.losses import check_reduction, class_gradient, class_rows, over
from minillm.ops.op import Op


class CrossEntropy(Op):
    """loss_n = -sum_c q_nc log softmax(x_n)_c, reduced."""

    overwrites = True

    @staticmethod
    def forward(
        logits, targets, *, ignore_index, label_smoothing, reduction, with_grad, inplace=False
    ):
        check_reduction("cross_entropy", reduction)
        shape, target_shape = logits.shape, targets.shape
        rows, targets, dim = class_rows("cross_entropy", logits, targets)  # (N, V)
        arguments = rows, targets, ignore_index, label_smoothing
        if with_grad:
            losses, dlogits = cross_entropy_forward_backward(*arguments, inplace)  # (N,), (N, V)
        else:
            losses, dlogits = cross_entropy_forward(*arguments), None  # (N,)
        count = (targets != ignore_index).sum()
        saved = (dlogits, count, reduction, shape, dim)
        if reduction == "none":
            return losses.reshape(target_shape), saved
        return over(losses.sum(), count) if reduction == "mean" else losses.sum(), saved

    @staticmethod
    def backward(dy, saved, needs):
        dlogits, count, reduction, shape, dim = saved
        if reduction == "none":
            g = dy.reshape(-1, 1)  # (N, 1)
        elif reduction == "mean":
            g = dy / xp_of(dy).maximum(count, 1).astype(dy.dtype)
        else:
            g = dy
        dlogits *= g
        return class_gradient(dlogits, shape, dim), None
