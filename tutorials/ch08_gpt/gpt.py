"""GPT, assembled from parts: your file for chapter 08.

Everything here works on Tensors of minillm, so gradients come by themselves. B batch, T time,
C channels, H heads, D = C / H, V vocabulary, L layers; S keys, of which T are new and S - T cached.
"""

import math
from functools import partial

import numpy as np

from minillm import Tensor, no_grad
from minillm import functional as F
from minillm.nn import Embedding, LayerNorm, Linear, Module, ModuleList

# --- attention ------------------------------------------------------------------------------------


def split_heads(x, H):
    """x (B, T, C) -> (B, H, T, D): head h has the channels [h D, (h + 1) D) of each token."""
    # hole 1: cut the channels into heads, then bring the heads before the time
    B, T, C = x.shape
    return x.reshape(B, T, H, C // H).transpose(1, 2)
    # end of hole


def merge_heads(x):
    """x (B, H, T, D) -> (B, T, C): undoes split_heads."""
    # hole 1: the same steps backwards
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)
    # end of hole


def attention(q, k, v):
    """Causal attention: q (B, H, T, D), k and v (B, H, S, D) with S >= T -> (B, H, T, D), of the
    dtype of q, also where scores are so large that their exponentials overflow.

    softmax(q k^T / sqrt(D)) v, where the T queries are those of the last T of the S tokens: query i
    stands at position S - T + i and sees the keys of positions 0 to S - T + i, itself included.
    """
    # hole 2: scores (B, H, T, S), minus infinity where a key is later than the query; softmax
    T, S, D = q.shape[2], k.shape[2], q.shape[3]
    scores = q @ k.transpose(2, 3) * D**-0.5
    later = np.arange(S) > np.arange(S - T, S)[:, None]  # (T, S)
    return F.softmax(scores.masked_fill(later, -math.inf), -1) @ v
    # end of hole


def self_attention(x, qkv, proj, H, cache=None):
    """x (B, T, C) -> (B, T, C): split_heads, attention and merge_heads between two linear layers.

    Args:
        qkv: x -> (B, T, 3 C): queries, then keys, then values.
        proj: (B, T, C) -> (B, T, C).
        cache: keys and values of earlier tokens, to which those of x are added; None for none.
    """
    q, k, v = (split_heads(part, H) for part in qkv(x).chunk(3, dim=2))  # (B, H, T, D)
    if cache is not None:
        k, v = cache.append(k, v)  # (B, H, S, D)
    return proj(merge_heads(attention(q, k, v)))


# --- block ----------------------------------------------------------------------------------------


def block(x, attention_norm, attend, mlp_norm, mlp):
    """One pre-norm block, (B, T, C) -> (B, T, C): equation (1) of the text.

    Args:
        attention_norm, attend, mlp_norm, mlp: functions (B, T, C) -> (B, T, C); call each once.
    """
    # hole 3: each part reads the normalised stream, and its result is added to the stream
    x = x + attend(attention_norm(x))
    return x + mlp(mlp_norm(x))
    # end of hole


class Block(Module):
    """Attention and MLP of one layer, with their parameters."""

    def __init__(self, C, H):
        self.H = H
        self.attention_norm, self.mlp_norm = LayerNorm(C), LayerNorm(C)
        self.qkv, self.attention_proj = Linear(C, 3 * C), Linear(C, C)
        self.up, self.mlp_proj = Linear(C, 4 * C), Linear(4 * C, C)

    def attend(self, x, cache=None):
        """x (B, T, C) -> (B, T, C)."""
        return self_attention(x, self.qkv, self.attention_proj, self.H, cache)

    def mlp(self, x):
        """x (B, T, C) -> (B, T, C), by way of (B, T, 4 C)."""
        return self.mlp_proj(F.gelu(self.up(x), approximate="tanh"))

    def forward(self, x, cache=None):
        """x (B, T, C) -> (B, T, C)."""
        attend = partial(self.attend, cache=cache)
        return block(x, self.attention_norm, attend, self.mlp_norm, self.mlp)


# --- model ----------------------------------------------------------------------------------------


def initial_weight(name, shape, L, rng):
    """The initial value of one parameter, float32 of this shape, as nanoGPT draws it for GPT-2.

    Biases are 0. Other vectors are weights of layer norms: 1. Matrices are drawn from a normal
    distribution of mean 0 and standard deviation 0.02, but 0.02 / sqrt(2 L) for the two matrices of
    a block that write to the residual stream.

    Args:
        name: "token_embedding.weight", "blocks.3.up.bias" ...; what writes to the stream ends in
            "proj.weight".
        L: number of blocks.
        rng: a numpy.random.Generator; rng.standard_normal(shape, np.float32) draws.
    """
    # hole 4: four cases
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    std = 0.02 / math.sqrt(2 * L) if name.endswith("proj.weight") else 0.02
    return rng.standard_normal(shape, np.float32) * np.float32(std)
    # end of hole


class GPT(Module):
    """GPT-2, in any size. The output layer is the token embedding's matrix once more."""

    def __init__(self, V, T, L, H, C, seed=0):
        self.T = T
        self.token_embedding, self.position_embedding = Embedding(V, C), Embedding(T, C)
        self.blocks = ModuleList(Block(C, H) for _ in range(L))
        self.norm = LayerNorm(C)
        rng = np.random.default_rng(seed)
        for name, p in self.named_parameters():
            p.data[...] = initial_weight(name, p.shape, L, rng)

    def forward(self, ids, cache=None):
        """ids (B, T) -> logits (B, T, V); `cache`: one of keys and values for each block."""
        past = cache[0].length if cache else 0
        x = self.token_embedding(ids) + self.position_embedding.weight[past : past + ids.shape[1]]
        for i, each in enumerate(self.blocks):
            x = each(x, cache[i] if cache else None)  # (B, T, C)
        return F.linear(self.norm(x), self.token_embedding.weight)

    def loss(self, ids, targets):
        """Mean cross-entropy in nats of targets (B, T) after ids (B, T)."""
        logits = self(ids)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


# --- sampling -------------------------------------------------------------------------------------


def distribution(logits, temperature=1.0, top_k=None, top_p=None):
    """The probabilities (V,) from which the next token is drawn, float64, of logits (V,).

    Logits are divided by the temperature; 0 puts all probability on the largest logit. Then all but
    the top_k likeliest tokens get probability 0; then all but the fewest likeliest that together
    reach top_p of what is left. Each time the rest is scaled to sum to 1. Of equal logits the one
    with the smaller index counts as likelier. `logits` stay as they are.
    """
    # hole 5: temperature, softmax without overflow, top-k, top-p
    z = np.asarray(logits, np.float64)
    p = np.zeros(z.size)
    if temperature == 0:
        p[z.argmax()] = 1
        return p
    order = np.argsort(-z, kind="stable")[:top_k]  # likeliest first
    e = np.exp((z[order] - z.max()) / temperature)
    e /= e.sum()
    if top_p is not None:
        count = np.searchsorted(e.cumsum(), top_p) + 1  # the one that crosses top_p is in
        order, e = order[:count], e[:count] / e[:count].sum()
    p[order] = e
    return p
    # end of hole


@no_grad()
def generate(model, ids, count, rng, cache=None, **how):
    """`count` tokens that go on from ids (T,), a list of int; T + count must fit the context.

    Args:
        cache: empty caches of the model's blocks; without them each token runs all before it.
        how: as `distribution` takes it.
    """
    ids, unseen = list(ids), len(ids)
    for _ in range(count):
        given = ids[-unseen:] if cache else ids
        logits = model(Tensor(np.array([given])), cache).data[0, -1]  # (V,)
        ids.append(int(rng.choice(logits.size, p=distribution(logits, **how))))
        unseen = 1
    return ids
