"""The GPT of minillm.models.gpt in plain PyTorch, as one writes it there (after nanoGPT): what our
training step is measured against. Parameters have the same names and shapes, so that a state_dict
of either loads into the other. This module must not import minillm, which would set the thread
variables that PyTorch reads.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs of channels (i, i + D/2) of x (B, H, T, D); cos and sin are (T, D/2)."""
    left, right = x.chunk(2, -1)  # (B, H, T, D/2)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)  # (B, H, T, D)


class CausalSelfAttention(nn.Module):
    def __init__(self, config: Any):
        super().__init__()
        self.H, self.G, self.D = config.n_head, config.kv_heads, config.head_size
        C = config.n_embd
        self.qkv = nn.Linear(C, (self.H + 2 * self.G) * self.D, bias=config.bias)
        self.proj = nn.Linear(C, C, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        B, T, C = x.shape
        H, G, D = self.H, self.G, self.D
        q, k, v = self.qkv(x).split((H * D, G * D, G * D), dim=-1)
        q = q.view(B, T, H, D).transpose(1, 2)  # (B, H, T, D)
        k = k.view(B, T, G, D).transpose(1, 2)  # (B, G, T, D)
        v = v.view(B, T, G, D).transpose(1, 2)  # (B, G, T, D)
        if rotation is not None:
            q, k = rotary(q, *rotation), rotary(k, *rotation)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=G < H)
        y = y.transpose(1, 2).contiguous().view(B, T, C)  # (B, T, C)
        return self.dropout(self.proj(y))


class MLP(nn.Module):
    def __init__(self, config: Any):
        super().__init__()
        C, hidden = config.n_embd, config.mlp_size
        swiglu = config.activation == "swiglu"
        self.gate = nn.Linear(C, hidden, bias=config.bias) if swiglu else None
        self.up = nn.Linear(C, hidden, bias=config.bias)
        self.proj = nn.Linear(hidden, C, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            hidden = F.silu(self.gate(x)) * self.up(x)  # (B, T, hidden)
        else:
            hidden = F.gelu(self.up(x), approximate="tanh")  # (B, T, hidden)
        return self.dropout(self.proj(hidden))


def build_norm(config: Any) -> nn.Module:
    if config.norm == "rms_norm":
        return nn.RMSNorm(config.n_embd, eps=config.norm_eps)
    return nn.LayerNorm(config.n_embd, eps=config.norm_eps, bias=config.bias)


class Block(nn.Module):
    def __init__(self, config: Any):
        super().__init__()
        self.attention_norm, self.attention = build_norm(config), CausalSelfAttention(config)
        self.mlp_norm, self.mlp = build_norm(config), MLP(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation)
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """Args:
    config: has the attributes of minillm.models.gpt.GPTConfig, properties included.
    """

    def __init__(self, config: Any):
        super().__init__()
        C, V, T = config.n_embd, config.vocab_size, config.block_size
        learned = config.position == "learned"
        self.token_embedding = nn.Embedding(V, C)
        self.position_embedding = nn.Embedding(T, C) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = build_norm(config)
        self.lm_head = None if config.tie_embeddings else nn.Linear(C, V, bias=False)
        if not learned:
            exponent = torch.arange(0, config.head_size, 2, dtype=torch.float64) / config.head_size
            angle = torch.outer(torch.arange(T), config.rope_theta**-exponent)  # (T, D/2)
            dtype = torch.get_default_dtype()
            self.register_buffer("cos", angle.cos().to(dtype), persistent=False)
            self.register_buffer("sin", angle.sin().to(dtype), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith("proj.weight")
                std = 0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02
                nn.init.normal_(p, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """ids, targets (B, T) -> logits (B, T, V), mean cross-entropy."""
        T = ids.shape[1]
        x = self.token_embedding(ids)  # (B, T, C)
        rotation = None
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[:T]
        else:
            rotation = self.cos[:T], self.sin[:T]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, rotation)
        head = self.token_embedding if self.lm_head is None else self.lm_head
        logits = F.linear(self.norm(x), head.weight)  # (B, T, V)
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def build_optimizer(model: nn.Module, lr: float, betas: tuple[float, float], decay: float) -> Any:
    """AdamW that decays matrices and embeddings only, as nanoGPT has it, in its fused form."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
