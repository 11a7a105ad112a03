"""Exercises, hints and wrong answers of chapter 5."""

import numpy as np

from minillm.errors import UserError
from minillm.learn import Exercise, Plug, Wrong
from minillm.tutorials.ch05_layer_norm.checks import (
    check_cross_entropy,
    check_layer_norm_backward,
    check_layer_norm_forward,
    check_softmax,
    check_softmax_kernel,
)

FILES = ("layer_norm.py", "softmax.cu")

EXERCISES = (
    Exercise(
        "Softmax, forward and backward",
        check_softmax,
        hints=(
            "Everything happens along the last axis; keepdims=True keeps a column that broadcasts.",
            "Take x.max(-1, keepdims=True) from x before np.exp. In the backward the sum of dy * y"
            " over the row is one number a row.",
            "e = np.exp(x - x.max(-1, keepdims=True)); e / e.sum(-1, keepdims=True). And"
            " y * (dy - (dy * y).sum(-1, keepdims=True)).",
        ),
        wrong=(
            Wrong("no shift", "y = np.exp(x - x.max(-1, keepdims=True))", "y = np.exp(x)",
                  says="softmax of [10000.0, 10000.0][0, 0] is nan, expected 0.5"),
            Wrong("one maximum for all rows", "y = np.exp(x - x.max(-1, keepdims=True))",
                  "y = np.exp(x - x.max())",
                  says="softmax of [[0.0, 0.0], [10000.0, 10000.0]][0, 0] is nan, expected 0.5"),
            Wrong("over columns", "y / y.sum(-1, keepdims=True)", "y / y.sum(0, keepdims=True)",
                  says="x of shape (3, 5): y[0, 0] is"),
            Wrong("only the diagonal of the Jacobian", "y * (dy - (dy * y).sum(-1, keepdims=True))",
                  "y * dy * (1 - y)", says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("the whole Jacobian", "y * (dy - (dy * y).sum(-1, keepdims=True))",
                  "y * dy - np.einsum('nc,nck->nk', dy, y[:, :, None] * y[:, None, :])",
                  says="no (C, C) matrix"),
            Wrong("a shift by the mean", "y = np.exp(x - x.max(-1, keepdims=True))",
                  "y = np.exp(x - x.mean(-1, keepdims=True))",
                  says="softmax of [0.0, 5000][0, 1] is nan, expected 1"),
            Wrong("the mean in place of the sum", "(dy * y).sum(-1, keepdims=True)",
                  "(dy * y).mean(-1, keepdims=True)", says="x of shape (3, 5): dx[0, 0] is"),
        ),
    ),
    Exercise(
        "Cross-entropy and its gradient",
        check_cross_entropy,
        hints=(
            "log(softmax(x)) is x minus the logarithm of a sum: no division, no small probability.",
            "With s = x - max: losses = log(sum(exp(s))) - s[target]. x[np.arange(N), targets]"
            " picks one element of each row.",
            "dx = exp(s) / sum(exp(s)); dx[np.arange(N), targets] -= 1",
        ),
        wrong=(
            Wrong("the logarithm of a probability that is 0",
                  "np.log(total) - shifted[np.arange(N), targets]",
                  "-np.log(e[np.arange(N), targets] / total)",
                  says="[0] is inf, expected 1000"),
            Wrong("the target not taken away", "    dx[np.arange(N), targets] -= 1\n", "",
                  says="x of shape (1, 1): dx[0, 0] is 1, expected 0"),
            Wrong("the target's column in every row", "dx[np.arange(N), targets] -= 1",
                  "dx[:, targets] -= 1", says="x of shape (3, 5): dx[0,"),
            Wrong("the mean over rows", "e / total[:, None]\n    dx[np.arange(N), targets] -= 1",
                  "e / total[:, None]\n    dx[np.arange(N), targets] -= 1\n    dx /= N",
                  says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("the shift, once only", "np.log(total) - shifted[", "np.log(total) - x[",
                  says="x of shape (1, 1): losses[0] is"),
        ),
    ),
    Exercise(
        "Layer norm, forward",
        check_layer_norm_forward,
        hints=(
            "Mean and variance are of a row: one number each. [:, None] turns (N,) into a column.",
            "First the mean; then x - mean; then the mean of its square; eps is added to the"
            " variance, inside the root.",
            "rstd = 1 / np.sqrt(((x - mean[:, None]) ** 2).mean(-1) + eps);"
            " y = (x - mean[:, None]) * rstd[:, None] * weight + bias",
        ),
        wrong=(
            Wrong("statistics over rows: batch norm",
                  "mean = x.mean(-1)\n    centred = x - mean[:, None]",
                  "mean = x.mean(0)\n    centred = x - mean",
                  says="x of shape (3, 5): y[0, 0] is"),
            Wrong("variance over C - 1", "(centred**2).mean(-1)",
                  "(centred**2).sum(-1) / max(x.shape[-1] - 1, 1)",
                  says="x of shape (3, 5): y[0, 0] is"),
            Wrong("E[x^2] - E[x]^2", "(centred**2).mean(-1)", "((x**2).mean(-1) - mean**2)",
                  says="float32, numbers near 1000: rstd[0] is"),
            Wrong("eps outside the root",
                  "1 / np.sqrt((centred**2).mean(-1) + eps)",
                  "1 / (np.sqrt((centred**2).mean(-1)) + eps)",
                  says="x of shape (1, 1): rstd[0] is 100, expected 10"),
            Wrong("weight forgotten", "rstd[:, None] * weight + bias", "rstd[:, None] + bias",
                  says="x of shape (3, 5): y[0, 0] is"),
        ),
    ),
    Exercise(
        "Layer norm, backward",
        check_layer_norm_backward,
        hints=(
            "Recompute xhat from x, mean and rstd. weight multiplies each channel, so what reaches"
            " xhat is g = dy * weight.",
            "Two means over the row, of g and of g * xhat, are taken away from g; rstd multiplies"
            " the result. The parameters see every row: sums over axis 0.",
            "dx = rstd[:, None] * (g - g.mean(-1, keepdims=True)"
            " - xhat * (g * xhat).mean(-1, keepdims=True))",
        ),
        wrong=(
            Wrong("mean and rstd taken for constants",
                  "g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True)", "g",
                  says="x of shape (1, 1): dx[0, 0] is"),
            Wrong("the path of the mean", "g - g.mean(-1, keepdims=True) - xhat", "g - xhat",
                  says="x of shape (1, 1): dx[0, 0] is"),
            Wrong("the path of the variance", " - xhat * (g * xhat).mean(-1, keepdims=True)", "",
                  says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("sums in place of means", "(g * xhat).mean(-1, keepdims=True)",
                  "(g * xhat).sum(-1, keepdims=True)", says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("rstd forgotten", "return dx * rstd[:, None]", "return dx",
                  says="x of shape (3, 5): dx[0, 0] is"),
            Wrong("weight in dweight", "(dy * xhat).sum(0)", "(g * xhat).sum(0)",
                  says="x of shape (3, 5): dweight[0] is"),
            Wrong("dbias over the row", "dy.sum(0)", "dy.sum(-1)",
                  says="x of shape (3, 5): dbias has shape (3,), expected (5,)"),
        ),
    ),
    Exercise(
        "Softmax in one kernel",
        check_softmax_kernel,
        hints=(
            "A thread without elements brings what changes nothing: minus_infinity() for the"
            " largest, 0 for the sum.",
            "Three loops `for (int c = threadIdx.x; c < C; c += THREADS)`. block_max and block_sum"
            " are called once each, by all threads, outside any `if` and any loop.",
            "When block_max returns, a slow thread may still be reading partial[0] while a fast one"
            " writes it in block_sum: __syncthreads() between them.",
        ),
        needs=("g++",),
        wrong=(
            Wrong("no barrier between them", "block_max(largest, partial);\n    __syncthreads();",
                  "block_max(largest, partial);", file="softmax.cu", says="race on shared partial"),
            Wrong("no shift", "total += expf(row[c] - largest)", "total += expf(row[c])",
                  file="softmax.cu", says="y[0, 0] is"),
            Wrong("the largest so far from 0", "float largest = minus_infinity();",
                  "float largest = 0;", file="softmax.cu", says="y["),
            Wrong("each thread its own maximum", "largest = block_max(largest, partial);",
                  "block_max(largest, partial);", file="softmax.cu",
                  says="x of shape (3, 5): y[0, 0] is"),
            Wrong("each thread its own sum", "total = block_sum(total, partial);", "",
                  file="softmax.cu", says="x of shape (3, 5): y[0, 0] is"),
            Wrong("only the threads with elements meet",
                  "    float largest = minus_infinity();",
                  "    if (threadIdx.x >= C) return;\n    float largest = minus_infinity();",
                  file="softmax.cu", says="divergent barrier"),
            Wrong("rows longer than the block", "c += THREADS) out[c]", "c += C) out[c]",
                  file="softmax.cu", says="x of shape (2, 129): y[0, 128] is nan"),
        ),
    ),
)  # fmt: skip


def _with_options(cross_entropy):
    """What the engine asks for besides: rows to ignore, and the gradient in the logits' place."""

    def run(logits, targets, ignore_index, label_smoothing, inplace):
        if label_smoothing:
            raise UserError("chapter 5's cross_entropy has no label smoothing")
        counted = targets != ignore_index
        losses, dlogits = cross_entropy(logits, np.where(counted, targets, 0))
        losses, dlogits = losses * counted, dlogits * counted[:, None]
        if inplace:
            logits[...] = dlogits
        return losses, logits if inplace else dlogits

    return run


PLUGS = (
    Plug("cross_entropy", "kernel cross_entropy_forward_backward", 2, adapt=_with_options),
    Plug("layer_norm_forward", "kernel layer_norm_forward", exercise=3),
    Plug("layer_norm_backward", "kernel layer_norm_backward", exercise=4),
)
