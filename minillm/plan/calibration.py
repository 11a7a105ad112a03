"""Measure this machine: matrix products, a short training step, messages. Half a minute.

    mpirun -n 2 minillm plan --calibrate         cores and the link between two ranks
    minillm plan --calibrate                     cores alone

In: the ranks of this run, best as many as there are cores: each then has one to itself, and what
the others do to shared caches and memory is part of the measurement. Out: a Cluster, plan.json in
the cache; links that this run cannot measure stay as they were there.

The step is timed in several shapes. Its work (workload.py) is linear in three unknowns - seconds an
operation, a byte, a kernel - and least squares gives them. What they add up to is what counts: a
single one of them says little about the machine.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from itertools import combinations
from statistics import median

import numpy as np

from minillm import env
from minillm.distributed import Communicator, all_reduce, on_root
from minillm.errors import UserError
from minillm.models.gpt import GPT, GPTConfig
from minillm.optim import AdamW, clip_grad_norm, param_groups
from minillm.plan.clusters import Cluster
from minillm.plan.links import Link
from minillm.plan.workload import Model, Work
from minillm.random import manual_seed
from minillm.train.metrics import measure_peak, memory_mb

# n_layer, n_embd, block_size, samples: overhead, memory and products each rule one of them.
SHAPES = ((4, 64, 32, 1), (2, 128, 64, 4), (4, 128, 64, 16), (2, 256, 128, 4), (2, 384, 128, 8))
VOCABULARY = 1024
SECONDS = 6.0  # of steps by turns
SMALL, LARGE = 1024, 4 << 20  # bytes of messages


def calibrate(comm: Communicator) -> Cluster:
    """Measure, on all ranks at the same moment; all get the same Cluster. Rank 0 keeps it.

    Raises:
        UserError: more ranks on a node than cores: they would measure each other's turns.
    """
    local = comm.host_of.count(comm.host_of[comm.rank])
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    on_root(comm, lambda: _refuse_crowds(local, cores))
    on_root(comm, lambda: _step(*SHAPES[0]) and None)  # compiles; the others find it in the cache
    # Every rank on one core, all at the same moment; then rank 0 on all cores, the others waiting.
    core, base, worst = _rates(comm, 1)
    alone = None
    if local == comm.size:  # else one node's cores would wait for the other's
        alone, _, worst_alone = _rates(comm, cores, only_root=True)
        worst = max(worst, worst_alone)
    inside = _links(comm, same_host=True)
    between = _links(comm, same_host=False)
    kept = on_root(comm, _load)
    cluster = Cluster(
        name=f"{cores} cores of {platform.node()}",
        products={"float32": core.products},
        peak={"float32": core.peak},
        memory=_node_memory() / cores,
        memory_rate=core.memory_rate,
        overhead=core.overhead,
        inside=inside or (kept and kept.inside),
        between=between or (kept and kept.between),
        devices=cores,
        overlap=0.0,
        base=base,
        cores=True,
        alone=(alone.products, alone.memory_rate, alone.overhead) if alone else None,
        source=f"measured here on {date.today()} with {comm.size} ranks; the fit explains its steps"
        f" within {worst:.0%}",
    )
    on_root(comm, lambda: _save(cluster))
    return cluster


def calibrated() -> Cluster:
    """What was measured on this machine.

    Raises:
        UserError: nothing was.
    """
    cluster = _load()
    if cluster is None:
        raise UserError(
            "this machine is not measured yet: mpirun -n 2 minillm plan --calibrate (half a minute)"
        )
    return cluster


def _refuse_crowds(local: int, cores: int) -> None:
    if local > cores:
        raise UserError(
            f"--calibrate with {local} ranks on {cores} cores would measure how they take turns:"
            f" mpirun -n {cores}"
        )


# --- a training step ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rates:
    """FLOP/s of products alone and in a step, bytes/s, seconds a kernel."""

    peak: float
    products: float
    memory_rate: float
    overhead: float


def _rates(
    comm: Communicator, threads: int, only_root: bool = False
) -> tuple[_Rates, float, float]:
    """Rates of a rank on `threads` threads; bytes of its process without a model; the largest
    relative error of the fit."""
    before, env.THREADS = env.THREADS, threads
    try:
        idle = only_root and comm.rank > 0
        comm.barrier()
        peak = 0.0 if idle else measure_peak("cpu", "float32")
        works, base = [_work(*shape) for shape in SHAPES], 0.0
        times = [0.0] * len(SHAPES)
        if not idle:
            steps = []
            for shape in SHAPES:
                steps.append(_step(*shape))
                # After a model so small that what is there is libraries and compiled kernels.
                base = base or memory_mb("cpu") * 1e6
            times = _by_turns(steps)
        comm.barrier()
    finally:
        env.THREADS = before
    scale = comm.size if only_root else 1  # the others have added zeros
    peak = _mean(comm, peak) * scale
    times = np.array([_mean(comm, seconds) * scale for seconds in times])
    rates = _Rates(peak, *_fit(works, times, peak))
    fitted = [w.seconds(rates.products, rates.memory_rate, rates.overhead) for w in works]
    return rates, base, max(abs(a / b - 1) for a, b in zip(fitted, times))


def _by_turns(steps: list[Callable[[], None]]) -> list[float]:
    """Seconds of each step, in the median: by turns, so that a busy moment meets all of them."""
    times: list[list[float]] = [[] for _ in steps]
    stop = time.perf_counter() + SECONDS
    while time.perf_counter() < stop or not times[0]:
        for step, own in zip(steps, times):
            began = time.perf_counter()
            step()
            own.append(time.perf_counter() - began)
    return [median(own) for own in times]


def _step(n_layer: int, n_embd: int, block_size: int, samples: int) -> Callable[[], None]:
    manual_seed(1)
    model = GPT(_config(n_layer, n_embd, block_size)).to("float32")
    optimizer = AdamW(param_groups(model, 0.1), 1e-4)
    ids = np.arange(samples * block_size).reshape(samples, block_size) % VOCABULARY

    def step() -> None:
        model(ids, ids, keep_logits=False)[1].backward()
        optimizer.step(clip_grad_norm(optimizer.groups, 1.0)[1])
        optimizer.zero_grad()

    step()
    return step


def _config(n_layer: int, n_embd: int, block_size: int) -> GPTConfig:
    return GPTConfig(
        block_size=block_size, vocab_size=VOCABULARY, n_layer=n_layer, n_head=4, n_embd=n_embd,
        bias=False,
    )  # fmt: skip


def _work(n_layer: int, n_embd: int, block_size: int, samples: int) -> Work:
    model = Model(_config(n_layer, n_embd, block_size), "float32")
    forward = model.stage(samples, n_layer, True, True)
    return forward * 3 + model.update(model.parameters)


def _fit(works: list[Work], times: np.ndarray, peak: float) -> tuple[float, float, float]:
    """FLOP/s, bytes/s and seconds a kernel that explain the times best: least squares of relative
    errors, none below zero. There are few enough to try each choice of those that are above it."""
    columns = np.array([[w.flops / peak, w.nbytes / 1e9, w.kernels / 1e6] for w in works])
    columns /= times[:, None]
    best, least = np.zeros(3), np.inf
    for n in (1, 2, 3):
        for chosen in map(list, combinations(range(3), n)):
            x = np.linalg.lstsq(columns[:, chosen], np.ones(len(times)), rcond=None)[0]
            error = float(((columns[:, chosen] @ x - 1) ** 2).sum())
            if (x >= 0).all() and error < least:
                best, least = np.zeros(3), error
                best[chosen] = x
    per_flop, per_byte, per_kernel = np.maximum(best, (1e-3, 1e-4, 0))
    return peak / per_flop, 1e9 / per_byte, per_kernel / 1e6


# --- messages -------------------------------------------------------------------------------------


def _links(comm: Communicator, same_host: bool) -> Link | None:
    """The link between rank 0 and the first rank on its host, or on another; None without one."""
    hosts = comm.host_of
    peers = [r for r in range(1, comm.size) if (hosts[r] == hosts[0]) == same_host]
    if not peers:
        return None
    latency = _exchange(comm, peers[0], SMALL)
    large = _exchange(comm, peers[0], LARGE)
    a, b = np.ones(LARGE // 4, np.float32), np.ones(LARGE // 4, np.float32)
    adding = _mean(comm, _best(lambda: np.add(a, b, out=a))) / LARGE
    return Link(latency, LARGE / max(large - latency, 1e-9), adding)


def _exchange(comm: Communicator, peer: int, nbytes: int) -> float:
    """Seconds in which ranks 0 and `peer` both send `nbytes` and receive as many: a ping-pong with
    two balls, as the ring plays it."""
    mine, theirs = np.zeros(nbytes, np.uint8), np.empty(nbytes, np.uint8)
    other = {0: peer, peer: 0}.get(comm.rank)
    comm.barrier()
    seconds = 0.0
    if other is not None:
        seconds = _best(lambda: comm.sendrecv(mine, other, theirs, other), repeats=30)
    return _mean(comm, seconds) * comm.size / 2


def _best(call: Callable[[], object], repeats: int = 9) -> float:
    """Median seconds, after a call that warms up."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return median(times)


def _mean(comm: Communicator, value: float) -> float:
    """Over ranks."""
    total = np.array([value])
    all_reduce(comm, total, "mean")
    return total.item()


# --- what is kept ---------------------------------------------------------------------------------


def _node_memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _save(cluster: Cluster) -> None:
    path = env.CACHE / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({platform.node(): asdict(cluster)}, indent=1))
    temporary.replace(path)


def _load() -> Cluster | None:
    path = env.CACHE / "plan.json"
    try:
        kept = json.loads(path.read_text()).get(platform.node())
        if kept is None:
            return None
        links = {name: Link(**kept[name]) if kept[name] else None for name in ("inside", "between")}
        alone = tuple(kept["alone"]) if kept["alone"] else None
        return Cluster(**kept | links | {"alone": alone})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        env.say_once(f"{path} is not legible ({error}): measure again with --calibrate")
        return None
