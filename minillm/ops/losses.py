"""Losses made of array operations: nll_loss, mse_loss, binary_cross_entropy_with_logits.

Each gives one loss an element, times a weight w (1 if there is none), and reduces them: "none"
keeps them, "sum" adds them, "mean" divides their sum by their number - for nll_loss by the sum of
the weights of the targets. Below, g is the gradient of one unreduced loss: dy, or dy over that
divisor.

    nll   loss_n = -w[t_n] logp[n, t_n]           dlogp[n, t_n] = -g w[t_n], else 0
    mse   loss = (x - t)^2                        dx = 2 g (x - t),   dt = -dx
    bce   loss = w ((1 - t) x + c softplus(-x))   dx = g w (1 - t - c s(-x)),
                                                  dt = g w ((p - 1) softplus(-x) - x)

with c = 1 + (p - 1) t, p the weight of positive targets, and s the logistic function, softplus'.
bce is -(p t log s(x) + (1 - t) log(1 - s(x))) with log s(x) = -softplus(-x) and log(1 - s(x)) =
-x - softplus(-x), which neither overflows nor loses small probabilities. With label smoothing e
(see cross_entropy.py) nll is (1 - e) times the above, less e / V sum_c w_c logp_nc.

Shapes: logp `(V,)`, `(N, V)` or `(B, V, ...)` with integer targets of that shape without V, w
`(V,)`; x and t alike; in bce, w and p (`pos_weight`) broadcast to them. Weights get no gradient.
Saved: the inputs, as everything above is cheaper to compute again than to keep; for nll the targets
and weights only.
"""

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.ops.activations import logistic, softplus
from minillm.ops.inputs import floating
from minillm.ops.op import Op, where
from minillm.ops.reduce import total

_REDUCTIONS = ("none", "mean", "sum")


def check_reduction(name, reduction):
    """Raise UserError unless PyTorch knows the word."""
    if reduction not in _REDUCTIONS:
        raise UserError(f"{name}: reduction must be one of {_REDUCTIONS}, got {reduction!r}")


def over(whole, count):
    """`whole / count` in whole's dtype, NaN where nothing was counted (without a warning)."""
    xp = xp_of(whole)
    count = xp.asarray(count, dtype=whole.dtype)
    none = count == 0
    return where(none, whole.dtype.type("nan"), whole / where(none, 1, count))


def class_rows(name, x, targets):
    """Scores as rows `(N, V)`, targets `(N,)`, and the dimension that the classes had.

    Raises:
        UserError: shapes do not fit, or targets are not integers.
    """
    floating(name, x)
    dim = min(x.ndim - 1, 1)
    if not x.ndim or targets.shape != x.shape[:dim] + x.shape[dim + 1 :]:
        want = x.shape[:dim] + x.shape[dim + 1 :] if x.ndim else "none, since it has no classes"
        raise UserError(
            f"{name}: input {x.shape} needs target of shape {want}, got {targets.shape}"
        )
    if targets.dtype.kind not in "iu":
        raise UserError(f"{name}: target must hold integer class indices, got {targets.dtype}")
    xp, targets = xp_of(x), targets.reshape(-1).astype("int64", copy=False)  # (N,)
    rows = xp.ascontiguousarray(xp.moveaxis(x, dim, -1)).reshape(targets.size, x.shape[dim])
    return rows, targets, dim


def class_gradient(drows, shape, dim):
    """The rows `(N, V)` of a gradient back in the layout that `class_rows` was given."""
    lead = shape[:dim] + shape[dim + 1 :]
    return xp_of(drows).moveaxis(drows.reshape(*lead, shape[dim]), -1, dim)


def _reduced(losses, reduction):
    if reduction == "none":
        return losses
    whole = total(losses, None, False)
    return whole if reduction == "sum" else over(whole, losses.size)


def _spread(dy, reduction, size):
    """The gradient of each unreduced loss."""
    return dy / max(size, 1) if reduction == "mean" else dy


class NllLoss(Op):
    """loss_n = -(1 - e) weight[t_n] logp[n, t_n] - e / V sum_c weight_c logp_nc."""

    @staticmethod
    def forward(logp, targets, weight, *, ignore_index, reduction, label_smoothing):
        check_reduction("nll_loss", reduction)
        xp, shape, target_shape = xp_of(logp), logp.shape, targets.shape
        rows, targets, dim = class_rows("nll_loss", logp, targets)  # (N, V), (N,)
        weight = xp.ones(rows.shape[1:], rows.dtype) if weight is None else weight
        if weight.shape != rows.shape[1:]:
            raise UserError(
                f"nll_loss: input {shape} needs weight {rows.shape[1:]}, got {weight.shape}"
            )
        n = xp.nonzero(targets != ignore_index)[0]  # the rows that count
        t, e, V = targets[n], label_smoothing, rows.shape[1]
        bad = (t < 0) | (t >= V)
        if bad.any():
            raise UserError(
                f"nll_loss: target {int(t[bad][0])} is outside the {V} classes of input {shape}"
                f" and is not ignore_index={ignore_index}"
            )
        losses = xp.zeros(len(rows), rows.dtype)  # (N,)
        losses[n] = -(1 - e) * weight[t] * rows[n, t]
        if e:
            losses[n] -= e / V * (rows[n] @ weight)
        w_sum = total(weight[t], None, False)
        saved = n, t, weight, w_sum, e, reduction, len(rows), shape, dim
        if reduction == "none":
            return losses.reshape(target_shape), saved
        whole = total(losses, None, False)
        return whole if reduction == "sum" else over(whole, w_sum), saved

    @staticmethod
    def backward(dy, saved, needs):
        n, t, weight, w_sum, e, reduction, N, shape, dim = saved
        xp, V = xp_of(dy), len(weight)
        g = over(dy, w_sum) if reduction == "mean" else dy
        g = xp.broadcast_to(g.reshape(-1), N)[n]
        dlogp = xp.zeros((N, V), dy.dtype)
        dlogp[n, t] = -(1 - e) * g * weight[t]
        if e:
            dlogp[n] -= e / V * g[:, None] * weight
        return class_gradient(dlogp, shape, dim), None, None


class MseLoss(Op):
    """loss = (x - target)^2."""

    @staticmethod
    def forward(x, target, *, reduction):
        check_reduction("mse_loss", reduction)
        floating("mse_loss", x, target)
        if x.shape != target.shape:
            raise UserError(f"mse_loss: input {x.shape} and target {target.shape} differ in shape")
        return _reduced((x - target) ** 2, reduction), (x, target, reduction)

    @staticmethod
    def backward(dy, saved, needs):
        x, target, reduction = saved
        dx = 2 * _spread(dy, reduction, x.size) * (x - target)
        return dx, -dx if needs[1] else None


def _broadcasts(small, shape):
    return len(small) <= len(shape) and all(n in (1, m) for n, m in zip(small[::-1], shape[::-1]))


class BinaryCrossEntropyWithLogits(Op):
    """loss = weight ((1 - t) x + (1 + (pos_weight - 1) t) softplus(-x))."""

    @staticmethod
    def forward(x, target, weight, pos_weight, *, reduction):
        name = "binary_cross_entropy_with_logits"
        check_reduction(name, reduction)
        floating(name, x, target)
        if x.shape != target.shape:
            raise UserError(f"{name}: input {x.shape} and target {target.shape} differ in shape")
        for what, w in (("weight", weight), ("pos_weight", pos_weight)):
            if w is not None and not _broadcasts(w.shape, x.shape):
                raise UserError(f"{name}: {what} {w.shape} does not broadcast to input {x.shape}")
        c = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
        losses = (1 - target) * x + c * softplus(-x)
        if weight is not None:
            losses = weight * losses
        return _reduced(losses, reduction), (x, target, weight, pos_weight, reduction)

    @staticmethod
    def backward(dy, saved, needs):
        x, target, weight, pos_weight, reduction = saved
        p = 1 if pos_weight is None else pos_weight
        g = _spread(dy, reduction, x.size)
        g = g if weight is None else g * weight
        dx = g * (1 - target - (1 + (p - 1) * target) * logistic(-x)) if needs[0] else None
        dtarget = g * ((p - 1) * softplus(-x) - x) if needs[1] else None
        return dx, dtarget, None, None
