"""The small layers: parameters with PyTorch's initial values around a function each."""

import math
from typing import Any

import numpy as np

from minillm import functional as F
from minillm.nn.init import kaiming_uniform_, normal_, uniform_
from minillm.nn.module import Module, Parameter
from minillm.tensor import Tensor


class Linear(Module):
    """y = x weight^T + bias, `(..., in_features) -> (..., out_features)`.

    Attributes:
        weight: (out_features, in_features), drawn from U(-b, b) with b = in_features^-1/2.
        bias: (out_features,), drawn alike; None without.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: Any = np.float32
    ):
        self.weight = Parameter(np.empty((out_features, in_features), dtype))
        self.bias = Parameter(np.empty(out_features, dtype)) if bias else None
        kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            uniform_(self.bias, -(in_features**-0.5), in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes, and whether there is a bias."""
        out_features, in_features = self.weight.shape
        return f"{in_features}, {out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """A table of vectors looked up by number, `ids (...) -> (..., embedding_dim)`.

    Attributes:
        weight: (num_embeddings, embedding_dim), drawn from the standard normal distribution.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, dtype: Any = np.float32):
        self.weight = Parameter(np.empty((num_embeddings, embedding_dim), dtype))
        normal_(self.weight)

    def forward(self, ids: Any) -> Tensor:
        """ids (...), integers in [0, num_embeddings) -> (..., embedding_dim)."""
        return F.embedding(ids, self.weight)

    def extra_repr(self) -> str:
        """Both sizes."""
        return "{}, {}".format(*self.weight.shape)


class LayerNorm(Module):
    """Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016, arXiv 1607.06450).

    Attributes:
        weight: (C,), ones.
        bias: (C,), zeros; None without.
    """

    def __init__(self, size: int, eps: float = 1e-5, bias: bool = True, dtype: Any = np.float32):
        self.weight = Parameter(np.ones(size, dtype))
        self.bias = Parameter(np.zeros(size, dtype)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Size, eps, and whether there is a bias."""
        return f"{self.weight.shape[0]}, eps={self.eps:g}, bias={self.bias is not None}"


class RMSNorm(Module):
    """Division by the root mean square of the last dimension (Zhang & Sennrich 2019, arXiv
    1910.07467).

    Attributes:
        weight: (C,), ones.
    """

    def __init__(self, size: int, eps: float = 1e-5, dtype: Any = np.float32):
        self.weight = Parameter(np.ones(size, dtype))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Size and eps."""
        return f"{self.weight.shape[0]}, eps={self.eps:g}"


class Dropout(Module):
    """In training, zeros with probability `p` and the rest divided by 1 - p; otherwise nothing
    (Srivastava et al. 2014, JMLR 15)."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape."""
        return F.dropout(x, self.p, self.training) if self.p else x

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p:g}"
