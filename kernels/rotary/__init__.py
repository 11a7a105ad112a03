"""Rotary position embedding (Su et al. 2021, RoFormer, arXiv 2104.09864).

The head's channels are paired across its halves, as in Llama: (x1, x2) = (x[d], x[d + D/2]), and
each pair is turned by the angle of its position t and frequency d, given as cos and sin:

    y1 = x1 cos - x2 sin,   y2 = x2 cos + x1 sin

A rotation's adjoint is the rotation back: dx is the same with sin negated (`inverse`).
"""

import numpy as np

from minillm.kernels.registry import Cost, Kernel


def _inputs(rng, B, H, T, D, inverse=False):
    angle = np.outer(np.arange(T), 100.0 ** (-np.arange(D // 2) / max(D // 2, 1)))
    return rng.normal(size=(B, H, T, D)), np.cos(angle), np.sin(angle), inverse


rotary = Kernel(
    __name__,
    "rotary",
    "x (B, H, T, D), cos (T, D/2), sin (T, D/2), inverse -> y (B, H, T, D)",
    inputs=_inputs,
    shapes=[
        dict(B=1, H=1, T=1, D=2),
        dict(B=2, H=3, T=5, D=6),
        dict(B=0, H=1, T=3, D=4),
        dict(B=2, H=2, T=33, D=34, inverse=True),
        dict(B=2, H=3, T=150, D=16, inverse=True),
    ],  # fmt: skip
    bench=[dict(B=12, H=4, T=64, D=32), dict(B=8, H=6, T=256, D=64)],
    bench_gpu=[dict(B=8, H=32, T=2048, D=128)],
    cost=lambda x, cos, sin, inverse: Cost(2 * x.nbytes, 3 * x.size),
    statistics=(1, 2),
)
