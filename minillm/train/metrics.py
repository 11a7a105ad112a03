"""What a run measures about itself: metrics.jsonl, memory, and the machine's peak for the MFU."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minillm.device import module, synchronize
from minillm.kernels.matmul import matmul
from minillm.ops.dtypes import find_dtype


class MetricsLog:
    """OUT/metrics.jsonl: one JSON object a line, each with its step; kept across --resume.

    Args:
        path: the file.
        step: the step resumed from; later lines, of work that was lost, are dropped. 0 starts anew.
    """

    def __init__(self, path: Path, step: int = 0):
        kept = [record for record in read(path) if record["step"] <= step] if step else []
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(_line(record) for record in kept), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, **record: Any) -> None:
        """Append a record and flush it."""
        self._file.write(_line(record))
        self._file.flush()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records of a metrics file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class StepTimer:
    """Speed since the last record: time spent in steps alone, without evaluation and saving.

    Args:
        flops_per_token: forward and backward.
        peak: FLOP/s of all ranks together, what the MFU refers to.
        device: whose memory is recorded.

    Attributes:
        steps: steps timed in all.
    """

    def __init__(self, flops_per_token: int, peak: float, device: str = "cpu"):
        self.steps = 0
        self._device = device
        self._flops, self._peak = flops_per_token, peak
        self._since, self._counted = time.monotonic(), 0
        self._exposed = self._exposed_before = 0.0

    def step(self, exposed_seconds: float) -> None:
        """A step is done; in all steps so far, this rank only waited for `exposed_seconds`."""
        self.steps += 1
        self._counted += 1
        self._exposed = exposed_seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    def record(self, tokens: float) -> dict[str, float]:
        """Tokens a second, model FLOP utilisation (PaLM, arXiv 2204.02311, appendix B), share of
        the step spent waiting for sums of gradients or parameters over copies of the model, and
        memory; counting starts again.

        Args:
            tokens: of a step, over all ranks that trained in it.
        """
        seconds = (time.monotonic() - self._since) / self._counted
        exposed = (self._exposed - self._exposed_before) / self._counted / seconds
        self._since, self._counted = time.monotonic(), 0
        self._exposed_before = self._exposed
        return {
            "step_ms": seconds * 1e3,
            "tokens_per_s": tokens / seconds,
            "mfu": tokens * self._flops / seconds / self._peak,
            "exposed": exposed,
            "memory_mb": memory_mb(self._device),
        }


def memory_mb(device: str) -> float:
    """Memory of this process in megabytes: on a GPU, what CuPy's pool holds; on the CPU, what is
    resident now, or its peak where /proc is missing."""
    if device == "cuda":
        return module(device).get_default_memory_pool().total_bytes() / 1e6
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 1e6
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure_peak(device: str, dtype: str) -> float:
    """FLOP/s that this rank reaches in matrix products, the ceiling the MFU refers to.

    All ranks of a machine must measure at the same moment, and on average rather than at their
    best: those that share a core take turns, and each has it to itself for a while.
    """
    size = 768
    times = gemm_times(device, dtype, size, seconds=0.2)
    return 2 * size**3 * len(times) / sum(times)


def gemm_times(device: str, dtype: str, size: int, seconds: float) -> list[float]:
    """Seconds of each product of two (size, size) matrices, repeated for `seconds`."""
    a = module(device).ones((size, size), find_dtype(dtype))
    matmul(a, a)  # the first call starts the threads
    times, stop = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < stop:
        synchronize(device)
        start = time.perf_counter()
        matmul(a, a)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return times


def plot(records: Iterable[dict[str, Any]], path: Path, entropy: float, title: str) -> None:
    """Draw training and validation loss against the step as an SVG.

    Args:
        entropy: drawn as a level: the loss of guessing by frequency alone.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    records = list(records)
    train = [(r["step"], r["loss"]) for r in records if "loss" in r]
    val = [(r["step"], r["val_loss"]) for r in records if "val_loss" in r]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    if train:
        axes.plot(*zip(*train), color="#9aa7b8", linewidth=1.2, label="training")
    if val:
        axes.plot(*zip(*val), color="#c2410c", marker="o", markersize=4, label="validation")
        axes.annotate(
            f"{val[-1][1]:.3f}", val[-1], xytext=(0, 8), textcoords="offset points", ha="right"
        )
    axes.axhline(entropy, color="#9aa7b8", linestyle=":", linewidth=1)
    axes.annotate("guessing by frequency", (1, entropy), xycoords=("axes fraction", "data"),
                  xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8,
                  color="#64748b")  # fmt: skip
    axes.set(title=title, xlabel="step", ylabel="loss (nats a token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if train or val:
        axes.legend(frameon=False)
    figure.savefig(path)
    pyplot.close(figure)
