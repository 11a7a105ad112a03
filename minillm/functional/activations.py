"""Activations: element by element, and softmax along a dimension.

All take floating tensors of any shape and dtype and return the same shape and dtype. The equations
are in minillm/ops: elementwise.py, activations.py, gelu.py, swiglu.py, softmax.py.
"""

from minillm.errors import UserError
from minillm.ops import activations, elementwise
from minillm.ops.gelu import Gelu
from minillm.ops.softmax import LogSoftmax, Softmax
from minillm.ops.swiglu import Swiglu
from minillm.tensor import Tensor, apply


def relu(input: Tensor) -> Tensor:
    """max(x, 0)."""
    return apply(elementwise.Relu, input)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return apply(elementwise.Sigmoid, input)


def tanh(input: Tensor) -> Tensor:
    """(e^x - e^-x) / (e^x + e^-x)."""
    return apply(elementwise.Tanh, input)


def silu(input: Tensor) -> Tensor:
    """x sigmoid(x) (Elfwing et al. 2017, arXiv 1702.03118)."""
    return apply(activations.Silu, input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""
    return apply(activations.Softplus, input, beta=beta, threshold=threshold)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016, arXiv 1606.08415).

    Args:
        input: any shape.
        approximate: "none" for erf, "tanh" for the approximation that GPT-2 uses.
    """
    if approximate not in ("none", "tanh"):
        raise UserError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return apply(Gelu, input, tanh=approximate == "tanh")


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) up (Shazeer 2020, arXiv 2002.05202): the gate of a SwiGLU feed-forward layer.

    Args:
        gate, up: one shape.
    """
    return apply(Swiglu, gate, up)


def softmax(input: Tensor, dim: int) -> Tensor:
    """e^x / sum e^x along `dim`."""
    return apply(Softmax, input, dim=dim)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """x - log sum e^x along `dim`."""
    return apply(LogSoftmax, input, dim=dim)
