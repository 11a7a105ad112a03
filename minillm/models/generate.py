"""Generation: one token after the other, each drawn from the model's prediction.

What comes in: a model and a prompt's ids. What goes out: an iterator of ids, each as soon as it is
known. Keys and values of past tokens are cached, so a token costs one step of length 1.

When the context is full it is cut to its later half, which then starts at position 0, and
generation goes on from there. (Dropping one token at a time would shift all positions, and so void
the cache, at every step.) Without the cache the same contexts are recomputed, so both ways yield
the same tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minillm.autograd import no_grad
from minillm.device import to_device
from minillm.errors import UserError
from minillm.models.gpt import GPT
from minillm.nn import KVCache
from minillm.random import default_generator
from minillm.tensor import Tensor


def generate(
    model: GPT,
    prompt: Sequence[int] | np.ndarray,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_token: int | None = None,
    use_cache: bool = True,
) -> Iterator[int]:
    """Continue `prompt`, yielding each new id as it is drawn.

    Args:
        prompt: at least one id; of a longer one, the last `block_size` are seen.
        temperature: logits are divided by it; 0 takes the likeliest token (greedy).
        top_k: draw only from the k likeliest tokens.
        top_p: draw only from the likeliest tokens that together reach this probability (Holtzman et
            al. 2020, arXiv 1904.09751).
        seed: of the draws; None goes on with the default generator.
        stop_token: end after yielding this id.
        use_cache: False recomputes the whole context for each token.

    Raises:
        UserError: at once, for arguments that cannot work.
    """
    V = model.config.vocab_size
    ids = np.asarray(prompt)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise UserError("the prompt must be a sequence of at least one token id")
    if ids.min() < 0 or ids.max() >= V:
        raise UserError(
            f"the prompt has ids from {ids.min()} to {ids.max()}, the model knows 0 to {V - 1}: "
            "use the tokenizer that the model was trained with"
        )
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens is {max_new_tokens}: it must not be negative")
    if not 0 <= temperature < np.inf:
        raise UserError(f"temperature is {temperature}: it must be 0 (greedy) or above")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}: it must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}: it must be above 0 and at most 1")
    rng = default_generator.numpy if seed is None else np.random.default_rng(seed)

    def stream() -> Iterator[int]:
        block_size = model.config.block_size
        context = ids.tolist()[-block_size:]
        cache, unseen = (model.new_cache(1) if use_cache else None), len(context)
        for _ in range(max_new_tokens):
            logits = _next_logits(model, context[-unseen:] if use_cache else context, cache)
            token = sample(logits, rng, temperature, top_k, top_p)
            yield token
            if token == stop_token:
                return
            context.append(token)
            unseen = 1
            if len(context) > block_size:
                context = context[-max(1, block_size // 2) :]
                cache, unseen = (model.new_cache(1) if use_cache else None), len(context)

    return stream()


def _next_logits(model: GPT, ids: list[int], cache: list[KVCache] | None) -> np.ndarray:
    """Logits (V,) of the token after `ids`, on the host, with dropout off."""
    training, device = model.training, model.token_embedding.weight.device
    model.eval()
    try:
        with no_grad():
            logits, _ = model(Tensor([ids], device=device), cache=cache)
    finally:
        model.train(training)
    return to_device(logits.data[0, -1], "cpu")


def sample(
    logits: np.ndarray,
    rng: Any,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> int:
    """Draw one id from logits (V,), restricted as `generate` says: temperature, then k, then p."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64)
    scaled = (scaled - scaled.max()) / temperature
    order = np.argsort(-scaled, kind="stable")[:top_k]  # likeliest first
    probability = np.exp(scaled[order])
    probability /= probability.sum()
    cumulative = probability.cumsum()
    if top_p is not None:
        # Enough tokens to reach p, the one that crosses it included.
        cumulative = cumulative[: np.searchsorted(cumulative, top_p) + 1]
    draw = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return int(order[min(draw, len(cumulative) - 1)])
