"""Machines: what a device computes, moves and holds, and the links between devices.

In: a name. Out: a Cluster. GPU clusters are from published figures; nothing here was measured by us
on a GPU. `calibration.py` makes a Cluster of the machine that it runs on.
"""

from dataclasses import dataclass, replace

from minillm.errors import UserError
from minillm.plan.links import Group, Link


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal devices.

    Attributes:
        products: FLOP/s that matrix products reach on a device, by dtype.
        peak: FLOP/s on its data sheet, by dtype: what MFU refers to.
        memory: bytes of a device, or, where devices are cores, a core's share of its node.
        memory_rate: bytes/s that element-wise kernels reach.
        overhead: seconds that a kernel costs however little it does.
        inside, between: links between devices of one node, and of two.
        devices: on a node.
        overlap: share of backward behind which communication can hide: 0 where it takes the cores.
        base: bytes that a process needs before there is a model.
        cores: devices are cores: many ranks take turns on them.
        alone: FLOP/s, bytes/s and overhead of a rank that has all cores of its node.
        source: where the figures are from, in words.
    """

    name: str
    products: dict[str, float]
    peak: dict[str, float]
    memory: float
    memory_rate: float
    overhead: float
    inside: Link | None
    between: Link | None
    devices: int
    overlap: float = 1.0
    base: float = 0.0
    cores: bool = False
    alone: tuple[float, float, float] | None = None
    source: str = ""

    def turns(self, busy: int) -> float:
        """How many times longer a rank takes where `busy` of a node's ranks compute: more ranks
        than cores take turns. Those that wait do not count, they give way (distributed/mpi.py)."""
        return max(1.0, busy / self.devices) if self.cores else 1.0

    def for_ranks(self, local: int) -> "Cluster":
        """What each rank gets if a node has `local` of them, and all compute.

        On cores, as env.py shares them out: a rank has devices // local of them to itself, or they
        take turns. More threads make one kernel faster, not its start: hence `alone`.
        """
        if not self.cores:
            if local > self.devices:
                raise UserError(
                    f"{local} ranks a node, but {self.name} has {self.devices} GPUs: at most one"
                    " rank a GPU"
                )
            return self
        own = max(1, self.devices // local)
        turns = self.turns(local)
        rates = [min(self.products.values()) * own, self.memory_rate * own, self.overhead]
        if local == 1 and self.alone:
            rates = list(self.alone)

        def slower(link: Link | None) -> Link | None:
            if link is None:
                return None
            return Link(link.latency * turns, link.bandwidth / turns, link.adding * turns)

        return replace(
            self,
            products=dict.fromkeys(self.products, rates[0] / turns),
            peak={dtype: rate * own / turns for dtype, rate in self.peak.items()},
            memory=self.memory * self.devices / local,
            memory_rate=rates[1] / turns,
            overhead=rates[2] * turns,
            inside=slower(self.inside),
            between=slower(self.between),
        )

    def group(self, size: int, stride: int, local: int) -> Group:
        """`size` ranks, each `stride` after the one before, on nodes of `local` ranks.

        Raises:
            UserError: it needs a link whose speed is not known.
        """
        here = min(size, -(-local // stride))
        nodes = -(-size // here)
        if size > 1 and self.inside is None:
            raise UserError(
                "the links between ranks are not measured: mpirun -n 2 minillm plan --calibrate"
            )
        if nodes > 1 and self.between is None:
            raise UserError(
                "the links between nodes are not measured: run --calibrate under mpirun on two"
                " nodes, or plan with all ranks on one: --gpus_per_node"
            )
        inside = self.inside or Link(0.0, 1.0)
        return Group(here, nodes, inside, self.between or inside)


# Dense peaks, memory and link speeds (per direction): NVIDIA's data sheets of A100 80GB SXM, H100
# SXM and H200 SXM; networks: an InfiniBand port a GPU, of 200 Gbit/s (DGX A100) or 400 Gbit/s (DGX
# H100 and H200).
# What matrix products reach in bfloat16: S. Bekman, "Machine Learning Engineering", table "Maximum
# Achievable Matmul FLOPS", 2025: A100 271.2 of 312, H100 794.5 of 989 TFLOP/s. The H200 has the
# H100's peak and takes its figure; float32 (no tensor cores) takes the same share of its peak.
# Latencies, and shares of bandwidth that are reached (memory 0.9, NVLink 0.6, InfiniBand 0.9): the
# systems of Calculon (Isaev et al. 2023, "Calculon: a methodology and tool for high-level
# co-design of systems and large language models", SC '23; its repository, systems/*.json).
# A kernel costs 3.8 microseconds when launches overlap: A. Gray, "Getting started with CUDA
# Graphs", NVIDIA technical blog, 2019 (on a V100; from C++: from Python a launch costs more).
def _gpu(
    name: str, tflops: float, share: float, fp32: float, gb: float, hbm: float, nvlink: float,
    network: float,
) -> Cluster:  # fmt: skip
    peak = {"bfloat16": tflops * 1e12, "mixed": tflops * 1e12, "float32": fp32 * 1e12}
    return Cluster(
        name=name,
        products={dtype: share * rate for dtype, rate in peak.items()},
        peak=peak,
        memory=gb * 1e9,
        memory_rate=0.9 * hbm * 1e12,
        overhead=3.8e-6,
        inside=Link(1e-6, 0.6 * nvlink * 1e9),
        between=Link(2e-6, 0.9 * network / 8 * 1e9),
        devices=8,
        source="from published figures, a bound on what to expect",
    )


CLUSTERS = {
    "a100": _gpu("A100 80GB SXM", 312, 271.2 / 312, 19.5, 80, 2.039, 300, 200),
    "h100": _gpu("H100 SXM", 989, 794.5 / 989, 67, 80, 3.35, 450, 400),
    "h200": _gpu("H200 SXM", 989, 794.5 / 989, 67, 141, 4.8, 450, 400),
}


def published(name: str) -> Cluster:
    """The cluster of that name.

    Raises:
        UserError: there is none.
    """
    if name not in CLUSTERS:
        raise UserError(f"no cluster is called {name!r}: choose {', '.join(CLUSTERS)} or here")
    return CLUSTERS[name]
