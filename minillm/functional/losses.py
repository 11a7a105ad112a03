"""Losses, with PyTorch's reductions: "none", "mean" and "sum"."""

from typing import Any

from minillm.autograd import Node, is_grad_enabled
from minillm.errors import UserError
from minillm.functional.activations import log_softmax
from minillm.ops.cross_entropy import CrossEntropy
from minillm.ops.inputs import probability
from minillm.ops.losses import BinaryCrossEntropyWithLogits, MseLoss, NllLoss
from minillm.tensor import Tensor, apply


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    inplace: bool = False,
) -> Tensor:
    """-log softmax(input)[target], fused with its gradient (see ops/cross_entropy.py).

    Args:
        input: logits (V,), (N, V) or (B, V, d1, ...), floating.
        target: classes (), (N,) or (B, d1, ...), integers in [0, V) or `ignore_index`.
        weight: (V,), a constant factor for each class; "mean" divides by the targets' weights.
            With it the loss is not fused.
        ignore_index: targets of this value count for nothing.
        reduction: "mean" over the targets that count (NaN if there are none), "sum" or "none".
        label_smoothing: in [0, 1], the share of each target spread over all classes.
        inplace: where the loss is fused and a gradient is wanted, that gradient takes the memory of
            `input`, whose values are lost: one array of this size less, often the largest of a
            training step. Counts as a change of `input`: backward raises if another op saved it.

    Raises:
        RuntimeError: inplace, on a leaf that requires a gradient or a view of one.
    """
    probability("cross_entropy: label_smoothing", label_smoothing)
    options = dict(ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
    if weight is None:
        with_grad = is_grad_enabled() and input.requires_grad
        if inplace and with_grad:
            if _is_of_leaf(input):
                raise RuntimeError(
                    "cross_entropy(inplace=True) would overwrite a leaf that requires a gradient:"
                    " leave inplace out, or pass it something computed, not a view"
                )
            input.version.count += 1
        options.update(with_grad=with_grad, inplace=inplace)
        return apply(CrossEntropy, input, target, **options)
    _constant("cross_entropy: weight", weight)
    logp = log_softmax(input, min(input.ndim - 1, 1))
    return apply(NllLoss, logp, target, weight, **options)


def _is_of_leaf(x: Tensor) -> bool:
    """Whether x is a leaf or a view of one, with which it then shares a version."""
    edge: Any = x if x.is_leaf else x.node
    while isinstance(edge, Node):
        inputs = zip(edge.edges, edge.stamps)
        edge = next((e for e, taken in inputs if taken and taken[0] is x.version), None)
    return edge is not None


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-weight[target] input[target], for log-probabilities.

    Args:
        input: (V,), (N, V) or (B, V, d1, ...), floating.
        target: (), (N,) or (B, d1, ...), integers in [0, V) or `ignore_index`.
        weight: (V,), a constant factor for each class.
        ignore_index: targets of this value count for nothing.
        reduction: "mean" divides the sum by the sum of the targets' weights; "sum" or "none".
    """
    _constant("nll_loss: weight", weight)
    return apply(
        NllLoss,
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=0.0,
    )


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(input - target)^2. Both floating and of one shape."""
    return apply(MseLoss, input, target, reduction=reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-weight (pos_weight t log s(x) + (1 - t) log(1 - s(x))) with s the logistic function.

    Args:
        input: logits x, any shape, floating.
        target: t in [0, 1], of input's shape and dtype.
        weight, pos_weight: constants that broadcast to input's shape.
        reduction: "mean" over all elements, "sum" or "none".
    """
    _constant("binary_cross_entropy_with_logits: weight", weight)
    _constant("binary_cross_entropy_with_logits: pos_weight", pos_weight)
    return apply(
        BinaryCrossEntropyWithLogits, input, target, weight, pos_weight, reduction=reduction
    )


def _constant(what: str, tensor: Tensor | None) -> None:
    if tensor is not None and tensor.requires_grad:
        raise UserError(f"{what} gets no gradient; pass it detached")
