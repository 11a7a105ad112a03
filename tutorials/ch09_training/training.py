"""What makes training converge: your file for chapter 09. NumPy arrays in and out."""

import math

import numpy as np


def adamw(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, grad_scale=1.0):
    """One step of AdamW, equations (9) and (10) of the text. Changes param, m and v in place.

    Args:
        param, grad, m, v: arrays (n,) of one dtype; `grad` stays as it is.
        step: counted from 1, this one included.
        grad_scale: the gradient counts times this: the factor of clipping.
    """
    # hole 1: both moments, then the decay, then the step with both corrections
    g = grad * grad_scale
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    param *= 1 - lr * weight_decay
    param -= lr * m_hat / (np.sqrt(v_hat) + eps)
    # end of hole


def warmup_cosine(warmup, total, floor=0.0):
    """A function of the step, counted from 0, to a factor of the learning rate: (12) of the text.

    For the first `warmup` steps (step + 1) / (warmup + 1); then half a cosine wave, from 1 at step
    `warmup` to `floor` at step `total`; `floor` ever after. 0 <= warmup <= total, in steps; where
    they are equal, the factor is `floor` from step `total` on.
    """

    # hole 2: define and return the function
    def factor(step):
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if step >= total:
            return floor
        gone = (step - warmup) / (total - warmup)
        return floor + (1 - floor) * (1 + math.cos(math.pi * gone)) / 2

    return factor
    # end of hole


def clip_grad_norm(grads, max_norm):
    """The norm of all gradients together, and the factor that brings it down to max_norm.

    Args:
        grads: a list of arrays of any shapes, float32 or float64, which stay as they are; the list
            may be empty.
        max_norm: may be math.inf, which only measures.

    Returns:
        norm: a float, of all numbers in all arrays, summed in float64.
        factor: a float, max_norm / (norm + 1e-6), or 1 where that is larger; and 0 if the norm is
            infinite or NaN, whatever max_norm: the caller must skip such a step, for 0 times
            infinity is NaN.
    """
    # hole 3: one norm for all of them
    norm = math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in grads))
    if not math.isfinite(norm):
        return norm, 0.0
    return norm, min(1.0, max_norm / (norm + 1e-6))
    # end of hole


def uniform(shape, key):
    """Numbers in [0, 1) that follow from the key alone: the same at every call."""
    return np.random.default_rng(key).random(shape)


def dropout(x, p, key):
    """Each element of x zeroed with probability p and otherwise divided by 1 - p: a new array.

    Element i is zeroed where uniform(x.shape, key)[i] < p, whatever it is, also infinite. The dtype
    is x's. p is in [0, 1]; with 1 everything is 0.
    """
    # hole 4: the mask follows from the key
    if p == 1:
        return np.zeros_like(x)
    return np.where(uniform(x.shape, key) < p, 0, x / (1 - p)).astype(x.dtype)
    # end of hole


def dropout_backward(dy, p, key):
    """The gradient of x, given that of dropout(x, p, key)."""
    # hole 4: which elements got through?
    return dropout(dy, p, key)
    # end of hole


def to_bfloat16(x):
    """x (...), float32, with each number rounded to the nearest bfloat16: float32 again.

    A bfloat16 is the upper half of a float32. Of two that are equally near, the one whose last bit
    is 0 is taken. NaN stays NaN; what would round to 2^128 becomes infinite. x stays as it is.
    """
    # hole 5: add, to the 32 bits, what carries into the upper 16 when they must round up; cut
    bits = x.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    rounded &= np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32))
    # end of hole
