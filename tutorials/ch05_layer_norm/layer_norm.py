"""Chapter 5, exercises 1 to 4: softmax, cross-entropy and layer norm, forward and backward.

Rows are independent: x is (N, C), N rows of C numbers, and everything here is over the last axis.
Results have the dtype of x, and arguments are not changed. Numbers in brackets are equations of the
text.
"""

import numpy as np


def softmax(x):
    """y (N, C): the softmax of each row of x (1), shifted by the row's largest element (2).

    A row may contain -inf, where y is 0, as long as one element is finite.
    """
    # hole 1: shift, exponentiate, divide
    y = np.exp(x - x.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)
    # end of hole


def softmax_backward(dy, y):
    """dx (N, C), from dy (N, C) and the result y of `softmax` (4). Nothing larger than (N, C)."""
    # hole 1: equation 4
    return y * (dy - (dy * y).sum(-1, keepdims=True))
    # end of hole


def cross_entropy(x, targets):
    """Losses (N,) and dx (N, C): of each row, -log of what softmax gives its target (5), and the
    gradient of that loss (6).

    targets (N,) are column numbers. Neither the probability of the target nor its logarithm may be
    lost: a row such as [0, 1000] with target 0 has loss 1000.
    """
    # hole 2: the loss from the shifted row, never log(softmax); then equation 6
    N = x.shape[0]
    shifted = x - x.max(-1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(-1)
    losses = np.log(total) - shifted[np.arange(N), targets]
    dx = e / total[:, None]
    dx[np.arange(N), targets] -= 1
    return losses, dx
    # end of hole


def layer_norm_forward(x, weight, bias, eps):
    """y (N, C), mean (N,) and rstd (N,) of layer norm (7, 8), with the variance in two passes.

    weight and bias are (C,); rstd is 1 / sqrt(variance + eps).
    """
    # hole 3: the mean, then the mean of squared distances from it, then y
    mean = x.mean(-1)
    centred = x - mean[:, None]
    rstd = 1 / np.sqrt((centred**2).mean(-1) + eps)
    return centred * rstd[:, None] * weight + bias, mean, rstd
    # end of hole


def layer_norm_backward(dy, x, weight, mean, rstd):
    """dx (N, C), dweight (C,) and dbias (C,) of layer norm (12, 13).

    mean and rstd (N,) are those that the forward returned.
    """
    # hole 4: xhat again, g = dy weight, the three terms; then two sums over rows
    xhat = (x - mean[:, None]) * rstd[:, None]
    g = dy * weight
    dx = g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True)
    return dx * rstd[:, None], (dy * xhat).sum(0), dy.sum(0)
    # end of hole
