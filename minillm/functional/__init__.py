"""The public face of the ops: PyTorch's `torch.nn.functional`, by its names and argument names.

    import minillm.functional as F

Every function takes Tensors and returns a differentiable Tensor. Bad shapes, dtypes and options
raise `minillm.errors.UserError`, which names the function and what it was given.
"""

from minillm.functional.activations import (
    gelu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    swiglu,
    tanh,
)
from minillm.functional.attention import rotary, scaled_dot_product_attention
from minillm.functional.layers import dropout, embedding, layer_norm, linear, rms_norm
from minillm.functional.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    nll_loss,
)

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "mse_loss",
    "nll_loss",
    "relu",
    "rms_norm",
    "rotary",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "swiglu",
    "tanh",
]
