"""Draws roofline.svg of chapter 4: a machine's two limits, and kernels of this project under them.

    python tutorials/ch04_gpu_kernels/plot.py [roofline.svg]

In: bench/results/kernels-cpu-2026-11-22.txt, measured by `make bench` on two cores of a shared Xeon
server. Out: an SVG beside this file, or where the argument says.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "bench" / "results" / "kernels-cpu-2026-11-22.txt"
SHOWN = {  # heading in the results: label
    "adamw  n=1048576": "AdamW",
    "softmax_forward  N=2048 C=1024": "softmax",
    "layer_norm_forward  N=2048 C=768": "layer norm",
    "gelu_forward  shape=(2048, 3072) tanh=True": "GELU",
    "attention_forward  B=8 H=6 G=6 T=256 S=256 D=64 causal=True": "attention",
    "matmul  a=(2048, 384) b=(384, 1536)": "matmul",
}


def read(path: Path) -> tuple[float, float, dict[str, tuple[float, float]]]:
    """GB/s of a copy, GFLOP/s of a product; (FLOP a byte, GFLOP/s) of each kernel shown."""
    text = path.read_text(encoding="utf-8")
    copy, gemm = map(float, re.search(r"copy ([\d.]+) GB/s, GEMM ([\d.]+)", text).groups())
    points = {}
    for heading, label in SHOWN.items():
        after = text.partition(f"\n{heading}\n")[2]
        rate, flops = re.search(r"^  cpu +\S+ ms +(\S+) GB/s +(\S+) GFLOP/s", after, re.M).groups()
        points[label] = float(flops) / float(rate), float(flops)
    return copy, gemm, points


def draw(path: Path) -> None:
    """Both axes logarithmic: the memory's roof is then a line of slope 1."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "roofline"})
    copy, gemm, points = read(RESULTS)
    ridge = gemm / copy
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([0.1, ridge, 1000], [0.1 * copy, gemm, gemm], color="#334155")
    axes.axvline(ridge, color="#9aa7b8", linestyle=":", linewidth=1)
    axes.annotate(f"ridge: {ridge:.1f} FLOP a byte", (ridge, 3.2), xytext=(4, 0),
                  textcoords="offset points", fontsize=8, color="#64748b")  # fmt: skip
    axes.annotate(f"{copy:.0f} GB/s", (0.13, 0.2 * copy), fontsize=8, color="#334155")
    axes.annotate(f"{gemm:.0f} GFLOP/s", (300, 1.1 * gemm), fontsize=8, color="#334155")
    for label, (intensity, flops) in points.items():
        axes.plot(intensity, flops, "o", color="#c2410c", markersize=5)
        right = label != "AdamW"  # whose right is taken
        axes.annotate(label, (intensity, flops), xytext=(6 if right else -6, -10),
                      ha="left" if right else "right", textcoords="offset points",
                      fontsize=8)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(0.1, 1000), ylim=(3, 400),
             xlabel="arithmetic intensity (FLOP a byte)", ylabel="GFLOP/s",
             title="Two cores of a shared Xeon server, float32, 2026-11-22")  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "roofline.svg")
