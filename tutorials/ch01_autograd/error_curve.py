"""The error of numerical derivatives against the step h: the table and the figure of chapter 01.

    python tutorials/ch01_autograd/error_curve.py [--out FILE.svg]

f(x) = e^x sin x at 101 points between 0.5 and 1.5; each error is the median of |difference - f'|.
"""

import argparse

import numpy as np

X = np.linspace(0.5, 1.5, 101)
SLOPE = np.exp(X) * (np.sin(X) + np.cos(X))  # f'
KINDS = ("one-sided, float64", "central, float64", "central, float32")


def f(x):
    return np.exp(x) * np.sin(x)


def error(kind, h):
    """The median error of one kind of difference with step h."""
    x = X.astype("float32" if kind.endswith("32") else "float64")
    up, down = x + x.dtype.type(h), x - x.dtype.type(h)
    if kind.startswith("one-sided"):
        down = x
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (f(up) - f(down)) / (up - down)  # the step that was taken: x + h is rounded too
    return np.median(np.abs(slope - SLOPE))


def best_steps():
    """Where truncation and rounding balance, for each of KINDS and f at x = 1: equation (8)."""
    value, second, third = f(1), 2 * np.e * np.cos(1), 2 * np.e * (np.cos(1) - np.sin(1))
    one_sided = 2 * np.sqrt(2.0**-53 * value / abs(second))
    central = [np.cbrt(3 * eps * value / abs(third)) for eps in (2.0**-53, 2.0**-24)]
    return one_sided, *central


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="write the figure to this .svg")
    out = parser.parse_args().out
    print(f"{'h':>6}  " + "  ".join(f"{kind:>18}" for kind in KINDS))
    for power in range(1, 15):
        h = 10.0**-power
        cells = [error(kind, h) if h > 1e-7 or kind.endswith("64") else None for kind in KINDS]
        print(f"{h:6.0e}  " + "  ".join(f"{'':>18}" if c is None else f"{c:18.1e}" for c in cells))
    best = best_steps()
    print("best h  " + "  ".join(f"{h:18.1e}" for h in best) + "   by equation (8)")
    if out:
        draw(out, best)


def draw(out, best):
    """Both axes logarithmic: two slopes that meet."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "minillm"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for kind, h_best, color in zip(KINDS, best, ("#9aa7b8", "#c2410c", "#0f766e")):
        h = np.logspace(-1, -6 if kind.endswith("32") else -14, 100)
        axes.loglog(h, [error(kind, step) for step in h], color=color, linewidth=1.4, label=kind)
        axes.axvline(h_best, color=color, linestyle=":", linewidth=1)
    axes.set_title("Error of a numerical derivative (dotted: the best h, predicted)")
    axes.set(xlabel="step h", ylabel="median error")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(out, metadata={"Date": "2026-11-22"})


if __name__ == "__main__":
    main()
