"""Step time and efficiency against the number of ranks, as an SVG."""

from pathlib import Path

from minillm.errors import UserError
from minillm.plan.clusters import Cluster
from minillm.plan.search import scaling
from minillm.plan.workload import Model

COUNTS = [1 << k for k in range(15)]  # 1 to 16,384 ranks


def plot(
    model: Model, cluster: Cluster, batch: int, ranks: int, path: Path, title: str,
    per_node: int = 0, **wishes: object,
) -> None:  # fmt: skip
    """Draw two panels: the time of a step of `batch` samples (strong scaling), and efficiency where
    the batch grows with the ranks, `batch` at `ranks` (weak scaling). Nothing is drawn where no
    layout fits.

    Raises:
        UserError: nothing fits anywhere, or the file cannot be written.
    """
    strong = scaling(model, cluster, batch / COUNTS[-1], COUNTS, False, per_node, **wishes)
    weak = scaling(model, cluster, batch / ranks, COUNTS, True, per_node, **wishes)
    times = [(n, p.seconds) for n, p in strong if p]
    shares = [(n, p.efficiency) for n, p in weak if p]
    if not times and not shares:
        raise UserError(f"--plot: no layout fits on any of {COUNTS[0]} to {COUNTS[-1]:,} ranks")

    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    if times:
        left.loglog(*zip(*times), color="#c2410c", marker="o", markersize=4, base=2)
        left.set_yscale("log", base=10)
        n, seconds = times[0]
        left.loglog([n, COUNTS[-1]], [seconds, seconds * n / COUNTS[-1]], color="#9aa7b8",
                    linestyle=":", linewidth=1)  # fmt: skip
        left.set_xscale("log", base=2)
    if shares:
        right.semilogx(*zip(*shares), color="#c2410c", marker="o", markersize=4, base=2)
    left.set(title=f"a step of {batch:,} samples (dotted: ideal)", ylabel="seconds", xlabel="ranks")
    right.set(
        title=f"efficiency, {batch / ranks:.3g} samples a rank", ylim=(0, 1.05), xlabel="ranks"
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(f"{title}: predicted", fontsize=10)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"--plot {path}: {error.strerror}") from None
    finally:
        pyplot.close(figure)
