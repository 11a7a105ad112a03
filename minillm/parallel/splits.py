"""Which dimension of which parameter tensor parallelism cuts, and how: by name.

    token_embedding, lm_head    V             rows: words of the vocabulary
    attention.qkv               H D, G D, G D   rows: heads, of queries, keys and values each
    mlp.up, mlp.gate            hidden        rows
    attention.proj, mlp.proj    H D, hidden   columns: of what the rows above have made

Everything else (norms, positions, the biases of proj) is whole on every rank. Each has its span of
every segment, so sizes need not be divisible by the number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from minillm.device import Array, xp_of
from minillm.distributed.spans import span
from minillm.models.gpt import GPTConfig


@dataclass(frozen=True)
class Split:
    """Dimension `dim` is made of segments of these sizes; each is cut for itself."""

    dim: int
    segments: tuple[int, ...]


def split_of(name: str, config: GPTConfig) -> Split | None:
    """How the parameter `name` of a GPT is cut; None for one that every rank has whole."""
    heads, kv_heads = config.n_embd, config.kv_heads * config.head_size
    if name in ("token_embedding.weight", "lm_head.weight"):
        return Split(0, (config.vocab_size,))
    *_, layer, kind, what = ("", *name.split("."))
    if kind == "qkv":
        return Split(0, (heads, kv_heads, kv_heads))
    if kind in ("up", "gate"):
        return Split(0, (config.mlp_size,))
    if kind == "proj" and what == "weight":
        return Split(1, (heads if layer == "attention" else config.mlp_size,))
    return None


def cut(array: Array, split: Split, rank: int, size: int) -> Array:
    """The share of `rank` among `size`, contiguous, in memory of its own."""
    pieces, offset = [], 0
    for n in split.segments:
        part = span(n, rank, size)
        part = slice(offset + part.start, offset + part.stop)
        pieces.append(array[(slice(None),) * split.dim + (part,)])
        offset += n
    return xp_of(array).concatenate(pieces, axis=split.dim)


def cut_shape(shape: tuple[int, ...], split: Split, rank: int, size: int) -> tuple[int, ...]:
    """The shape that `cut` returns, for an array of `shape`."""
    parts = (span(n, rank, size) for n in split.segments)
    n = sum(part.stop - part.start for part in parts)
    return (*shape[: split.dim], n, *shape[split.dim + 1 :])


def join(shares: Sequence[Array], split: Split) -> Array:
    """The array that `cut` made these shares of, one of each rank."""
    size, pieces, read = len(shares), [], [0] * len(shares)
    for n in split.segments:
        for rank, share in enumerate(shares):
            part = span(n, rank, size)
            first, read[rank] = read[rank], read[rank] + part.stop - part.start
            pieces.append(share[(slice(None),) * split.dim + (slice(first, read[rank]),)])
    return xp_of(shares[0]).concatenate(pieces, axis=split.dim)
