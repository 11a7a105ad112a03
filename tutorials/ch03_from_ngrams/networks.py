"""The networks of chapter 03: token ids (B, T) -> logits (B, T, V), each with its own memory."""

import numpy as np
from models import attention

import minillm
from minillm import Tensor, nn
from minillm import functional as F


class Window(nn.Module):
    """Bengio et al. 2003: the last K tokens, as vectors side by side, through one hidden layer."""

    def __init__(self, V: int, K: int = 8, E: int = 24, C: int = 224):
        self.embedding = nn.Embedding(V, E)
        self.hidden = nn.Linear(K * E, C)
        self.head = nn.Linear(C, V)
        self.K = K

    def forward(self, ids: np.ndarray) -> Tensor:
        e = self.embedding(ids)  # (B, T, E)
        B, T, E = e.shape
        e = minillm.cat([minillm.zeros(B, self.K - 1, E), e], dim=1)  # nothing before the text
        e = minillm.cat([e[:, j : j + T] for j in range(self.K)], dim=2)  # (B, T, K E)
        return self.head(self.hidden(e).tanh())


class Recurrent(nn.Module):
    """Elman 1990: one state, made anew at each step from the token and from itself."""

    def __init__(self, V: int, C: int = 192):
        self.embedding = nn.Embedding(V, C)
        self.recur = nn.Linear(C, C)
        self.head = nn.Linear(C, V)

    def states(self, ids: np.ndarray) -> list[Tensor]:
        """h_1 to h_T, (B, C) each."""
        e = self.embedding(ids)  # (B, T, C)
        h, states = minillm.zeros(e.shape[0], e.shape[2]), []
        for t in range(e.shape[1]):
            h = (e[:, t] + self.recur(h)).tanh()
            states.append(h)
        return states

    def forward(self, ids: np.ndarray) -> Tensor:
        return self.head(minillm.stack(self.states(ids), dim=1))


class Layer(nn.Module):
    """One layer of a Transformer, (B, T, C) -> (B, T, C): attention, then an MLP on each token."""

    def __init__(self, C: int, H: int):
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.H = H

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        heads = self.qkv(self.norm1(x)).reshape(B, T, 3, self.H, C // self.H)
        q, k, v = (part.transpose(1, 2) for part in heads.unbind(dim=2))  # (B, H, T, D) each
        x = x + self.proj(attention(q, k, v).transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Attention(nn.Module):
    """L layers between an embedding of tokens and positions, and the head."""

    def __init__(self, V: int, T: int, C: int = 64, H: int = 4, L: int = 1):
        self.embedding, self.position = nn.Embedding(V, C), nn.Embedding(T, C)
        self.layers = nn.ModuleList(Layer(C, H) for _ in range(L))
        self.head = nn.Linear(C, V)

    def forward(self, ids: np.ndarray) -> Tensor:
        x = self.embedding(ids) + self.position(np.arange(ids.shape[1]))  # (B, T, C)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)
