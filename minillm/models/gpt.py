"""GPT: GPT-2 (Radford et al. 2019), and by configuration what came after it (Llama, Touvron et al.
2023, arXiv 2302.13971): rotary positions, RMSNorm, SwiGLU, shared key/value heads, no biases.

    ids (B, T) -> token embedding + position embedding -> L blocks -> norm -> logits (B, T, V)

Alphabet: B batch, T time, C channels = n_embd, H heads = n_head, G key/value heads, D = C / H, V
vocabulary, L layers.
"""

import math
from dataclasses import dataclass
from typing import Literal

from minillm import functional as F
from minillm.device import Array
from minillm.errors import UserError
from minillm.nn import (
    MLP,
    Block,
    CausalSelfAttention,
    Dropout,
    Embedding,
    KVCache,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    RMSNorm,
)
from minillm.nn.attention import Rotation, rotary_tables
from minillm.nn.init import normal_
from minillm.tensor import Tensor


@dataclass(frozen=True)
class GPTConfig:
    """Sizes and options of a GPT; the defaults are GPT-2 small, without dropout.

    Raises:
        UserError: sizes or options that do not go together.
    """

    block_size: int = 1024
    """Longest context, T."""
    vocab_size: int = 50257
    """V."""
    n_layer: int = 12
    """L."""
    n_head: int = 12
    """H."""
    n_kv_head: int | None = None
    """G: each head of keys and values serves n_head / n_kv_head queries. None: as many as
    n_head."""
    n_embd: int = 768
    """C."""
    hidden_size: int | None = None
    """Width of the MLP. None: 4 C for gelu; for swiglu, which has three matrices instead of two,
    the multiple of 32 at or above 8 C / 3, for as many parameters."""
    dropout: float = 0.0
    """On the embeddings and on what attention and MLP add to the residual stream, not on the
    attention weights."""
    bias: bool = True
    """Biases in linear layers and layer norms."""
    position: Literal["learned", "rotary"] = "learned"
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    """gelu is the tanh form, as in GPT-2."""
    tie_embeddings: bool = True
    """The output layer uses the token embedding's matrix (Press & Wolf 2017, arXiv 1608.05859)."""
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths."""

    def __post_init__(self) -> None:
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "n_kv_head",
                     "hidden_size"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: it must be at least 1")
        for name, choices in (
            ("position", ("learned", "rotary")),
            ("norm", ("layer_norm", "rms_norm")),
            ("activation", ("gelu", "swiglu")),
        ):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {getattr(self, name)!r}: choose {' or '.join(choices)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}: it must be at least 0 and below 1")
        if not (self.norm_eps > 0 and self.rope_theta > 0):
            raise UserError(
                f"norm_eps is {self.norm_eps} and rope_theta {self.rope_theta}: both must "
                "be above 0"
            )
        if self.n_embd % self.n_head:
            raise UserError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}: set n_embd to "
                f"{self.n_head * max(1, round(self.n_embd / self.n_head))}, or another multiple"
            )
        if self.n_head % self.kv_heads:
            raise UserError(
                f"n_head {self.n_head} is not divisible by n_kv_head {self.kv_heads}: set "
                "n_kv_head to a divisor of n_head"
            )
        if self.position == "rotary" and self.head_size % 2:
            raise UserError(
                f"rotary positions turn pairs of channels, but n_embd / n_head = {self.n_embd} / "
                f"{self.n_head} = {self.head_size} is odd: set n_embd to a multiple of "
                f"{2 * self.n_head}"
            )

    @property
    def kv_heads(self) -> int:
        """G."""
        return self.n_kv_head if self.n_kv_head is not None else self.n_head

    @property
    def head_size(self) -> int:
        """D."""
        return self.n_embd // self.n_head

    @property
    def mlp_size(self) -> int:
        """Width of the MLP."""
        if self.hidden_size is not None:
            return self.hidden_size
        return 4 * self.n_embd if self.activation == "gelu" else -(-self.n_embd // 12) * 32


class GPT(Module):
    """A decoder-only transformer over token ids.

    Initial weights as nanoGPT draws them: matrices from N(0, 0.02), but those that add to the
    residual stream from N(0, 0.02 / sqrt(2 L)), as it is a sum of 2 L such terms; biases 0.
    """

    def __init__(self, config: GPTConfig):
        self.config = config
        C, V = config.n_embd, config.vocab_size
        self.token_embedding = Embedding(V, C)
        self.position_embedding = (
            Embedding(config.block_size, C) if config.position == "learned" else None
        )
        self.dropout = Dropout(config.dropout)
        self.blocks = ModuleList(self._block() for _ in range(config.n_layer))
        self.norm = self._norm()
        self.lm_head = None if config.tie_embeddings else Linear(C, V, bias=False)
        self.cross_entropy = F.cross_entropy  # another where ranks share the vocabulary
        self._init_weights()

    def _norm(self) -> Module:
        config = self.config
        if config.norm == "rms_norm":
            return RMSNorm(config.n_embd, config.norm_eps)
        return LayerNorm(config.n_embd, config.norm_eps, config.bias)

    def _block(self) -> Block:
        config = self.config
        attention = CausalSelfAttention(
            config.n_embd, config.n_head, config.kv_heads, config.bias, config.dropout
        )
        mlp = MLP(config.n_embd, config.mlp_size, config.activation, config.bias, config.dropout)
        return Block(self._norm(), attention, self._norm(), mlp)

    def _init_weights(self) -> None:
        residual_std = 0.02 / math.sqrt(2 * self.config.n_layer)
        for path, parameter in self.named_parameters():
            if parameter.ndim == 2:
                normal_(parameter, std=residual_std if path.endswith("proj.weight") else 0.02)
            elif path.endswith("bias"):
                parameter.data[...] = 0

    def forward(
        self,
        ids: Tensor | Array,
        targets: Tensor | Array | None = None,
        cache: list[KVCache] | None = None,
        reduction: str = "mean",
        keep_logits: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Logits of the next token at each place, and their loss.

        Args:
            ids: (B, T) integers in [0, V).
            targets: (B, T) the tokens that do come next; -100 where none is to be predicted.
            cache: from `new_cache`, for inference: `ids` continue what is in it, and are added to
                it.
            reduction: of the loss over tokens: "mean", "sum" or "none" (B T,).
            keep_logits: False if only the loss is wanted: its gradient may take their memory.

        Returns:
            logits (B, T, V), or (B, 1, V), of the last place alone, with a cache and no targets;
            None if there are targets and they are not kept;
            the cross-entropy in nats, or None without targets.

        Raises:
            UserError: longer than block_size together with the cache, or ids or targets not (B, T).
        """
        if ids.ndim != 2:
            raise UserError(f"ids of shape {ids.shape}: a GPT takes (B, T)")
        if targets is not None and targets.shape != ids.shape:
            raise UserError(f"targets {targets.shape} must have the shape of ids, {ids.shape}")
        past = cache[0].length if cache is not None else 0
        x = self.run_blocks(self.embed(ids, past), past, cache)  # (B, T, C)
        if cache is not None and targets is None:
            x = x[:, -1:]  # (B, 1, C)
        logits = self.head(x)  # (B, T, V)
        if targets is None:
            return logits, None
        loss = self.loss(logits, targets, reduction, inplace=not keep_logits)
        return logits if keep_logits else None, loss

    # --- the parts of forward: a stage of a pipeline has some of them ----------------------------

    def embed(self, ids: Tensor | Array, past: int = 0) -> Tensor:
        """ids (B, T), after `past` others -> (B, T, C), what the first block is given."""
        stop = past + ids.shape[1]
        if stop > self.config.block_size:
            raise UserError(
                f"{stop} tokens are longer than block_size {self.config.block_size}: shorten the "
                "context, or train a model with a larger block_size"
            )
        x = self.token_embedding(ids)  # (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[past:stop]
        return self.dropout(x)

    def run_blocks(self, x: Tensor, past: int = 0, cache: list[KVCache] | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C), through all blocks that are here."""
        rotation = None
        if self.config.position == "rotary":
            rotation = self._rotation(x, past)
        for i, block in enumerate(self.blocks):
            x = block(x, rotation, cache[i] if cache is not None else None)
        return x

    def head(self, x: Tensor) -> Tensor:
        """x (B, T, C), the last block's -> logits (B, T, V)."""
        return F.linear(self.norm(x), self._output_weight())

    def loss(
        self, logits: Tensor, targets: Tensor | Array, reduction: str, inplace: bool
    ) -> Tensor:
        """Cross-entropy of logits (B, T, V); `inplace`: its gradient may take their memory."""
        rows = logits.reshape(-1, logits.shape[-1])  # (B T, V)
        return self.cross_entropy(rows, targets.reshape(-1), reduction=reduction, inplace=inplace)

    def _output_weight(self) -> Tensor:
        return self.token_embedding.weight if self.lm_head is None else self.lm_head.weight

    def _rotation(self, x: Tensor, past: int) -> Rotation:
        config = self.config
        cos, sin = rotary_tables(
            config.block_size, config.head_size, config.rope_theta, str(x.dtype), x.device
        )
        return cos[past : past + x.shape[1]], sin[past : past + x.shape[1]]

    def new_cache(self, batch_size: int) -> list[KVCache]:
        """Empty caches of keys and values, one a layer, for `batch_size` sequences."""
        config, weight = self.config, self.token_embedding.weight
        shape = (batch_size, config.kv_heads, config.block_size, config.head_size)
        return [KVCache(shape, weight.dtype, weight.device) for _ in range(config.n_layer)]

    def flops_per_token(self) -> int:
        """Floating-point operations of one token, forward and backward, at full context.

        6 N + 12 L H D T (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, appendix B): 2 a parameter
        forward and 4 backward, and the two products of attention, whose causal half is not
        deducted. N counts the parameters that take part in products: no table that is only looked
        up.
        """
        config = self.config
        n = self.num_parameters()
        if self.position_embedding is not None:
            n -= self.position_embedding.weight.data.size
        if self.lm_head is not None:
            n -= self.token_embedding.weight.data.size
        return 6 * n + 12 * config.n_layer * config.n_embd * config.block_size
