"""Functions with weights: linear, embedding, normalisation; and dropout."""

from collections.abc import Sequence
from math import prod

from minillm.errors import UserError
from minillm.ops.dropout import Dropout
from minillm.ops.embedding import Embedding
from minillm.ops.inputs import probability
from minillm.ops.layer_norm import LayerNorm
from minillm.ops.linear import Linear
from minillm.ops.rms_norm import RmsNorm
from minillm.random import default_generator
from minillm.tensor import Tensor, apply


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input weight^T + bias.

    Args:
        input: (..., I), floating.
        weight: (O, I), of input's dtype.
        bias: (O,), or None for none.

    Returns:
        (..., O)
    """
    return apply(Linear, input, weight, bias)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """The rows of `weight` that `input` names.

    Args:
        input: ids, any shape (...), integers in [0, V).
        weight: (V, C).
        padding_idx: a row that gets no gradient; may count from the end.

    Returns:
        (..., C)
    """
    return apply(Embedding, input, weight, padding_idx=padding_idx)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero elements with probability `p` and divide the others by 1 - p; `input` if not training.

    Which ones follows from the next key of `minillm.random.default_generator`, on any number of
    threads (Srivastava et al. 2014, JMLR 15).

    Args:
        input: any shape, floating.
        p: in [0, 1].
        training: False leaves `input` as it is.
    """
    probability("dropout: p", p)
    if not training or p == 0:
        return input
    return apply(Dropout, input, p=p, key=default_generator.key())


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias over the last dimensions (arXiv 1607.06450).

    Args:
        input: (..., *normalized_shape), floating.
        normalized_shape: the sizes to normalise over, together.
        weight, bias: of shape normalized_shape; None stands for ones and zeros.
        eps: added to the variance, which is the mean of squares (not unbiased).
    """
    x, weight, bias = _last_one("layer_norm", input, normalized_shape, weight, bias)
    y = apply(LayerNorm, x, weight, bias, eps=eps)
    return y if y.shape == input.shape else y.reshape(input.shape)


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) weight over the last dimensions (arXiv 1910.07467).

    Args:
        input: (..., *normalized_shape), floating.
        normalized_shape: the sizes to normalise over, together.
        weight: of shape normalized_shape; None stands for ones.
        eps: added to the mean of squares; None for the spacing of input's dtype at 1.
    """
    x, weight = _last_one("rms_norm", input, normalized_shape, weight)
    y = apply(RmsNorm, x, weight, eps=eps)
    return y if y.shape == input.shape else y.reshape(input.shape)


def _last_one(
    name: str, x: Tensor, normalized_shape: int | Sequence[int], *params: Tensor | None
) -> list[Tensor | None]:
    """`x` and parameters with the normalised dimensions merged into one: what the ops take."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    got = [x.shape[-len(shape) :], *(p.shape for p in params if p is not None)]
    if not shape or any(s != shape for s in got):
        raise UserError(
            f"{name}: normalized_shape {shape} must be the last sizes of input {x.shape} and the"
            f" shape of the parameters, which is {got[1:]}"
        )
    if len(shape) == 1:
        return [x, *params]
    merged = x.reshape(*x.shape[: -len(shape)], prod(shape))  # (..., C)
    return [merged, *(p if p is None else p.reshape(prod(shape)) for p in params)]
