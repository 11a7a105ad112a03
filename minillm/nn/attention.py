"""Causal self-attention (Vaswani et al. 2017, arXiv 1706.03762) with what came after it: heads of
keys and values shared by groups of queries (Ainslie et al. 2023, arXiv 2305.13245), rotary
positions (Su et al. 2021, arXiv 2104.09864), and a cache of keys and values for generation.

Alphabet: B batch, T time, C channels, H query heads, G key/value heads, D = C / H head size, P
tokens already in the cache, S = P + T.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from minillm import functional as F
from minillm.device import Array, module, xp_of
from minillm.errors import UserError
from minillm.nn.layers import Dropout, Linear
from minillm.nn.module import Module
from minillm.tensor import Tensor

Rotation = tuple[Array, Array]  # cos and sin, (T, D / 2) each


@lru_cache(maxsize=16)
def rotary_tables(length: int, head_size: int, theta: float, dtype: str, device: str) -> Rotation:
    """cos and sin of the angles position * theta^(-2 i / D), for i < D / 2 and all positions.

    Returns:
        Two arrays (length, head_size / 2), rounded to `dtype` once, from float64.
    """
    frequency = theta ** (-np.arange(0, head_size, 2) / head_size)  # (D/2,)
    angle = np.outer(np.arange(length), frequency)  # (length, D/2)
    xp = module(device)
    return xp.asarray(np.cos(angle).astype(dtype)), xp.asarray(np.sin(angle).astype(dtype))


class KVCache:
    """Keys and values of one layer for the tokens seen so far, in memory for all that may come.

    Attributes:
        length: P, how many tokens are in it.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: Any, device: str):
        """Room for keys and values of shape (B, G, longest S, D)."""
        xp = module(device)
        self._keys, self._values = xp.empty(shape, dtype), xp.empty(shape, dtype)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add k and v, (B, G, T, D) each; returns all so far, (B, G, P + T, D) each.

        Raises:
            UserError: outside of no_grad, since no gradient could pass through the cache.
        """
        if k.requires_grad or v.requires_grad:
            raise UserError("a cache of keys and values is for inference: call within no_grad()")
        start, stop = self.length, self.length + k.shape[2]
        self._keys[:, :, start:stop], self._values[:, :, start:stop] = k.data, v.data
        self.length = stop
        return Tensor(self._keys[:, :, :stop]), Tensor(self._values[:, :, :stop])


class CausalSelfAttention(Module):
    """Each token looks at itself and those before it: `(B, T, C) -> (B, T, C)`.

    Args:
        n_embd: C.
        n_head: H, divides C.
        n_kv_head: G, divides H; as many as H is plain multi-head attention, 1 multi-query.
        bias: biases in both linear layers.
        dropout: on what is added to the residual stream. There is none on the attention weights:
            the kernel never stores them.

    Attributes:
        qkv: one Linear to the H + 2 G heads: queries, then keys, then values.
        proj: Linear from the joined heads back to C.
    """

    def __init__(
        self, n_embd: int, n_head: int, n_kv_head: int, bias: bool = True, dropout: float = 0.0
    ):
        if n_embd % n_head or n_head % n_kv_head:
            raise UserError(
                f"n_head {n_head} must divide n_embd {n_embd}, and n_kv_head {n_kv_head} n_head"
            )
        self.n_head, self.n_kv_head, self.head_size = n_head, n_kv_head, n_embd // n_head
        self.qkv = Linear(n_embd, (n_head + 2 * n_kv_head) * self.head_size, bias)
        self.proj = Linear(n_embd, n_embd, bias)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C).

        Args:
            rotation: cos and sin of the T positions, for rotary embedding.
            cache: keys and values of the P tokens before x; those of x are added. For inference.
        """
        B, T, _ = x.shape
        H, G, D = self.n_head, self.n_kv_head, self.head_size
        # The heads are cut before they are transposed, so that their gradients meet in one
        # contiguous array, the gradient of the qkv product.
        heads = self.qkv(x).reshape(B, T, H + 2 * G, D)
        q, k, v = (part.transpose(1, 2) for part in heads.split([H, G, G], dim=2))
        # q (B, H, T, D), k and v (B, G, T, D)
        if rotation is not None:
            q, k = F.rotary(q, *rotation), F.rotary(k, *rotation)
        past = 0
        if cache is not None:
            past = cache.length
            k, v = cache.append(k, v)  # (B, G, S, D)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=_mask(x, past), is_causal=past == 0, enable_gqa=G < H
        )  # (B, H, T, D), in memory (B, T, H, D)
        return self.dropout(self.proj(y.transpose(1, 2).reshape(B, T, H * D)))

    def extra_repr(self) -> str:
        """Heads and their size."""
        return f"n_head={self.n_head}, n_kv_head={self.n_kv_head}, head_size={self.head_size}"


def _mask(x: Tensor, past: int) -> Tensor | None:
    """Which of past + T keys each of the T queries sees, where plain `is_causal` does not say it:
    query i stands at position past + i. A single query sees all."""
    T = x.shape[1]
    if past == 0 or T == 1:
        return None
    return Tensor(xp_of(x.data).tri(T, past + T, past, dtype=bool))  # (T, S)
