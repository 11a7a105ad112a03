"""Draws delay.svg: python tutorials/ch12_beyond_synchronous/figure.py

Gradient descent on theta^2 / 2, whose gradients are 4 steps old.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("agg")
mpl.rcParams["svg.hashsalt"] = "delay"  # the same file each time
from matplotlib import pyplot as plt  # noqa: E402

DELAY, STEPS = 4, 80
STEP_SIZES = {
    0.08: "0.08: no detour",
    0.2: "0.2: overshoots, settles",
    0.35: "0.35: never settles",
}


def path(a: float) -> np.ndarray:
    """The errors e_0 = 1, e_1 ... of equation (5)."""
    e = [1.0] * (DELAY + 1)  # nothing was applied before step 0
    for _ in range(STEPS):
        e.append(e[-1] - a * e[-1 - DELAY])
    return np.array(e[DELAY:])


figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
for a, label in STEP_SIZES.items():
    axes.plot(path(a), label=label, linewidth=1.4)
axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
axes.set(xlabel="pushes", ylabel="error", xlim=(0, STEPS), ylim=(-1.6, 1.6))
axes.set_title("step size a, gradients 4 pushes old (2026-11-22)", fontsize=10)
axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower center")
axes.spines[["top", "right"]].set_visible(False)
figure.savefig(Path(__file__).with_name("delay.svg"), metadata={"Date": None})
