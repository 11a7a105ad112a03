"""Which network remembers the first of T symbols:  python recall.py --steps 200 --lengths 4 8

Sequences of T symbols out of 8, drawn at random; after the last one, the network has to name the
first. Guessing is right in 1 of 8 cases.
"""

import argparse

import numpy as np
from networks import Attention, Recurrent

import minillm
from minillm import functional as F
from minillm import optim

V, B, C = 8, 64, 32


def accuracy(model, T, steps, seed=0):
    """Train on new sequences at each step, then count right answers on 512 more."""
    rng = np.random.default_rng(seed)
    optimizer = optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        x = rng.integers(V, size=(B, T))
        F.cross_entropy(model(x)[:, -1], x[:, 0]).backward()
        _, clip = optim.clip_grad_norm(optimizer.groups, 1.0)
        optimizer.step(grad_scale=clip)
        optimizer.zero_grad()
    x = rng.integers(V, size=(512, T))
    with minillm.no_grad():
        answers = model(x)[:, -1].data.argmax(-1)
    return float((answers == x[:, 0]).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 8, 16])
    options = parser.parse_args()
    print(f"right answers after {options.steps} steps")
    print("length   recurrent   attention, 1 layer")
    for T in options.lengths:
        minillm.manual_seed(0)
        recurrent = accuracy(Recurrent(V, C), T, options.steps)
        minillm.manual_seed(0)
        attention = accuracy(Attention(V, T, C, H=2), T, options.steps)
        print(f"{T:6} {recurrent:11.0%} {attention:20.0%}", flush=True)


if __name__ == "__main__":
    main()
