"""Attention, and the rotation of its queries and keys by position."""

from minillm import env
from minillm.device import xp_of
from minillm.errors import UserError
from minillm.functional.activations import softmax
from minillm.functional.layers import dropout
from minillm.ops.attention import ScaledDotProductAttention
from minillm.ops.inputs import probability
from minillm.ops.rotary import Rotary
from minillm.tensor import Tensor, apply


def rotary(input: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head's pairs of channels (i, i + D/2) by position (arXiv 2104.09864).

    Args:
        input: (B, H, T, D), floating, D even.
        cos, sin: (T, D/2), constants, of input's dtype or float32: of the angle of each position
            and pair.
    """
    return apply(Rotary, input, cos, sin)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale query key^T) value (Vaswani et al. 2017, arXiv 1706.03762).

    Fused, without a T x S matrix, unless there is a mask, dropout, or a value of another head size.

    Args:
        query: (..., H, T, D), floating.
        key: (..., H, S, D).
        value: (..., H, S, E).
        attn_mask: broadcasts to (..., H, T, S): boolean, True where a query sees a key, or
            floating, added to the scores. A query that sees no key gets zeros.
        dropout_p: probability of dropping each attention weight, whether training or not.
        is_causal: query i sees keys j <= i. Not together with attn_mask.
        scale: None for D^-1/2.
        enable_gqa: key and value may have G heads, H a multiple of G; head h then reads theirs at
            h // (H / G).

    Returns:
        (..., H, T, E)
    """
    probability("scaled_dot_product_attention: dropout_p", dropout_p)
    if attn_mask is not None and is_causal:
        raise UserError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if attn_mask is not None and attn_mask.dtype.kind in "iu":
        raise UserError(
            f"scaled_dot_product_attention: attn_mask of {attn_mask.dtype} is neither boolean (True"
            " where a query sees a key) nor floating (added to the scores); use .to(bool)"
        )
    _check_shapes(query, key, value, enable_gqa)
    scale = max(query.shape[-1], 1) ** -0.5 if scale is None else scale
    fused = attn_mask is None and dropout_p == 0 and value.shape[-1] == key.shape[-1]
    if fused and key.shape[-2] > 0:  # the kernels need a key
        return apply(ScaledDotProductAttention, query, key, value, scale=scale, causal=is_causal)
    if not fused:
        env.say_once(
            "scaled_dot_product_attention with a mask, dropout or another head size for value is"
            " not fused: it keeps several (T, S) arrays for each head until backward"
        )
    return _unfused(query, key, value, attn_mask, dropout_p, is_causal, scale)


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> None:
    shapes = query.shape, key.shape, value.shape
    H, G = (s[-3] if len(s) > 2 else 1 for s in shapes[:2])
    wrong = None
    if any(len(s) < 2 or len(s) != query.ndim or s[:-3] != query.shape[:-3] for s in shapes):
        wrong = "leading sizes differ or are missing"
    elif query.shape[-1] != key.shape[-1]:
        wrong = "query and key differ in head size"
    elif key.shape[:-1] != value.shape[:-1]:
        wrong = "key and value differ in heads or length"
    elif H != G and not enable_gqa:
        wrong = "numbers of heads differ; enable_gqa=True lets query heads share"
    elif H != G and (G == 0 or H % G):
        wrong = f"{H} query heads cannot share {G} key heads evenly"
    if wrong:
        raise UserError(
            f"scaled_dot_product_attention: {wrong}: query {shapes[0]}, key {shapes[1]}, value"
            f" {shapes[2]}"
        )


def _unfused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """The same from separate ops, with the T x S scores in memory."""
    H, G = (x.shape[-3] if x.ndim > 2 else 1 for x in (q, k))
    if H != G:
        k, v = (_repeat_heads(x, H // G) for x in (k, v))
    scores = (q * scale) @ k.transpose(-2, -1)  # (..., H, T, S)
    if is_causal:
        xp = xp_of(q.data)
        mask = Tensor(xp.tril(xp.ones(scores.shape[-2:], bool)))
    if mask is None:
        return dropout(softmax(scores, -1), dropout_p) @ v
    if mask.dtype.kind == "b":
        scores = scores.masked_fill(~mask, float("-inf"))
    else:
        scores = scores + mask
    sees_nothing = Tensor((scores.data == -float("inf")).all(axis=-1, keepdims=True))
    weights = softmax(scores.masked_fill(sees_nothing, 0.0), -1).masked_fill(sees_nothing, 0.0)
    return dropout(weights, dropout_p) @ v  # (..., H, T, E)


def _repeat_heads(x: Tensor, times: int) -> Tensor:
    *lead, G, S, D = x.shape
    return x.unsqueeze(-3).expand(*lead, G, times, S, D).reshape(*lead, G * times, S, D)
