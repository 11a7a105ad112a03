"""From counts to attention: your file for chapter 03."""

import numpy as np

from minillm import Tensor
from minillm import functional as F

# --- counting -------------------------------------------------------------------------------------


def bigram(ids: np.ndarray, V: int, k: float) -> np.ndarray:
    """Add-k bigram model of a text: equation (3).

    Args:
        ids: (N,) token ids below V, in the order of the text.
        k: above 0, added to each of the V^2 counts.

    Returns:
        (V, V) float64: row a holds the probability of each token after token a; rows sum to 1.
    """
    # hole 1: count the pairs (ids[t], ids[t + 1]), add k, divide each row by its sum
    counts = np.zeros((V, V))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    counts += k
    return counts / counts.sum(1, keepdims=True)
    # end of hole


def perplexity(p: np.ndarray, ids: np.ndarray) -> float:
    """Of a bigram model on a text, ids (N,): equation (4). The first token has none before it, and
    is not predicted: the mean is over N - 1 tokens."""
    # hole 2: exp of the mean of -ln of what the model gave to each token that came
    return float(np.exp(-np.log(p[ids[:-1], ids[1:]]).mean()))
    # end of hole


# --- recurrence -----------------------------------------------------------------------------------


def rnn_forward(x, h0, U, W, b):
    """States of a recurrent network, h_t = tanh(x_t U + h_{t-1} W + b): equation (7).

    Args:
        x: (T, B, E), time first.
        h0: (B, C), the state before the first step.
        U, W, b: (E, C), (C, C), (C,).

    Returns:
        h: (T, B, C).
    """
    h, state = np.empty((len(x), *h0.shape), x.dtype), h0
    for t in range(len(x)):
        h[t] = state = np.tanh(x[t] @ U + state @ W + b)
    return h


def rnn_backward(dh, h, x, h0, U, W):
    """Backpropagation through time: equations (8) to (10).

    Args:
        dh: (T, B, C), the gradient of each state that does not come through later states: the h_t
            with a bar of equation (8).
        h, x, h0, U, W: as `rnn_forward` took and gave them. Nothing is written into.

    Returns:
        dx (T, B, E), dh0 (B, C), dU (E, C), dW (C, C), db (C,).
    """
    dx, dU, dW = np.zeros_like(x), np.zeros_like(U), np.zeros_like(W)
    db, later = np.zeros(W.shape[1], W.dtype), np.zeros_like(h0)  # later: gradient from step t + 1
    # hole 3: from the last step to the first
    for t in reversed(range(len(x))):
        before = h[t - 1] if t else h0
        da = (dh[t] + later) * (1 - h[t] ** 2)  # (B, C), of the argument of tanh
        dx[t] = da @ U.T
        dU += x[t].T @ da
        dW += before.T @ da
        db += da.sum(0)
        later = da @ W.T
    return dx, later, dU, dW, db
    # end of hole


# --- attention ------------------------------------------------------------------------------------


def causal_mean(v: Tensor) -> Tensor:
    """The mean of all positions up to each: v (..., T, D) -> (..., T, D), equation (12).

    y[..., t, :] = mean of v[..., 0, :] to v[..., t, :]. As a product with a (T, T) matrix, in v's
    dtype, so that autograd differentiates it.
    """
    T = v.shape[-2]
    # hole 4: row t of the matrix has 1 / (t + 1) in columns 0 to t, and 0 after
    weights = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    return Tensor(weights.astype(v.dtype)) @ v
    # end of hole


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention: equation (13).

    Args:
        q, k, v: (..., T, D), floating: queries, keys, values.

    Returns:
        (..., T, D): y_t = sum over s <= t of w_ts v_s, where w_t is the softmax, over those s, of
        q_t . k_s / sqrt(D). With operations of Tensors, so that autograd differentiates it.
    """
    T, D = q.shape[-2:]
    later = Tensor(np.triu(np.ones((T, T), bool), 1))  # [t, s]: whether s > t
    # hole 5: scores, -inf where s > t, softmax, mix the values; `masked_fill` and `softmax` help
    scores = (q @ k.transpose(-2, -1)) * D**-0.5
    weights = F.softmax(scores.masked_fill(later, -np.inf), -1)
    return weights @ v
    # end of hole
