"""The transformer block: attention and an MLP, each normalised before and added after."""

from minillm import functional as F
from minillm.errors import UserError
from minillm.nn.attention import CausalSelfAttention, KVCache, Rotation
from minillm.nn.layers import Dropout, Linear
from minillm.nn.module import Module
from minillm.tensor import Tensor


class MLP(Module):
    """Two layers on each token by itself: `(..., C) -> (..., C)`.

        gelu     y = proj(gelu(up(x))), the tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415)
        swiglu   y = proj(silu(gate(x)) up(x)) (Shazeer 2020, arXiv 2002.05202)

    Args:
        n_embd: C.
        hidden_size: width between the layers.
        activation: "gelu" or "swiglu".
        bias: biases in all linear layers.
        dropout: on what is added to the residual stream.
    """

    def __init__(
        self,
        n_embd: int,
        hidden_size: int,
        activation: str = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
    ):
        if activation not in ("gelu", "swiglu"):
            raise UserError(f"activation is {activation!r}: choose gelu or swiglu")
        self.gate = Linear(n_embd, hidden_size, bias) if activation == "swiglu" else None
        self.up = Linear(n_embd, hidden_size, bias)
        self.proj = Linear(hidden_size, n_embd, bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C)."""
        if self.gate is not None:
            hidden = F.swiglu(self.gate(x), self.up(x))  # (..., hidden_size)
        else:
            hidden = F.gelu(self.up(x), approximate="tanh")  # (..., hidden_size)
        return self.dropout(self.proj(hidden))


class Block(Module):
    """x = x + attention(norm(x)), then x = x + mlp(norm(x)): pre-norm, as in GPT-2 (Radford et al.
    2019). `(B, T, C) -> (B, T, C)`."""

    def __init__(
        self, attention_norm: Module, attention: CausalSelfAttention, mlp_norm: Module, mlp: MLP
    ):
        self.attention_norm, self.attention = attention_norm, attention
        self.mlp_norm, self.mlp = mlp_norm, mlp

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C); `rotation` and `cache` as CausalSelfAttention takes them."""
        x = x + self.attention(self.attention_norm(x), rotation, cache)
        return x + self.mlp(self.mlp_norm(x))
