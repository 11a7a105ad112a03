"""`minillm plan`: the best layouts for a model on a cluster, before anybody pays for it."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from minillm.errors import UserError
from minillm.models.gpt import GPTConfig
from minillm.plan import Cluster, Model, Prediction, calibrate, calibrated, published, search
from minillm.plan.command import advice
from minillm.plan.plot import COUNTS, plot
from minillm.train.config import PRESETS as TRAIN_PRESETS
from minillm.train.config import peek


@dataclass(frozen=True)
class Options:
    """Predict step time, memory, efficiency and cost of training a GPT on a cluster."""

    preset: Literal["quick", "shakespeare-char", "gpt2", "gpt2-xl", "gpt3"] = "gpt2"
    """Named set of defaults for the model and the batch."""
    ranks: int = 8
    """How many ranks: GPUs, or processes that share this machine's cores."""
    cluster: str = "h100"
    """a100, h100, h200: from published figures; here: this machine, as --calibrate measured it."""
    gpus_per_node: int = 0
    """Ranks on a node. 0: all its GPUs; with --cluster here, all ranks on this machine."""
    batch_size: int = 480
    """Samples a step, over all ranks."""
    micro_batch_size: int = 0
    """Samples a rank computes at once. 0: the best."""
    strategy: Literal["auto", "dp", "zero1", "zero2", "zero3", "tp", "pp"] = "auto"
    """auto: the fastest products of all. Else one of them for all ranks."""
    tp: int = 0
    """Ranks that share each matrix. 0: free."""
    pp: int = 0
    """Stages of the pipeline. 0: free."""
    recompute: bool = False
    """Keep only the input of each block for backward, and compute the rest again."""
    dtype: Literal["bfloat16", "float32", "mixed"] = "bfloat16"
    """bfloat16: float32 weights, as train.py has it; mixed: half-precision weights and gradients,
    float32 copies in the optimiser. --cluster here knows float32 alone."""
    price: float = 0.0
    """Of a GPU for an hour. 0: no cost is printed."""
    show: int = 5
    """How many layouts to print."""
    plot: str = ""
    """Draw step time and efficiency from 1 to 16,384 ranks into this SVG file."""
    calibrate: bool = False
    """First measure this machine: mpirun -n 2 minillm plan --calibrate"""

    block_size: int = 1024
    """T."""
    vocab_size: int = 50257
    """V."""
    n_layer: int = 12
    """L."""
    n_head: int = 12
    """H."""
    n_kv_head: int = 0
    """G. 0: as many as n_head."""
    n_embd: int = 768
    """C."""
    bias: bool = True
    """Biases in linear layers and norms."""
    position: Literal["learned", "rotary"] = "learned"
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    tie_embeddings: bool = True
    """Share the token embedding with the output layer."""


def _from_train(name: str, vocab_size: int) -> Options:
    theirs = vars(TRAIN_PRESETS[name])
    shared = {f.name for f in fields(Options)} & theirs.keys() - {
        "dtype",
        "micro_batch_size",
        "tp",
        "pp",
    }
    return Options(**{k: theirs[k] for k in shared} | {"vocab_size": vocab_size})


PRESETS = {
    "quick": _from_train("quick", 1024),
    "shakespeare-char": _from_train("shakespeare-char", 65),
    "gpt2": _from_train("gpt2", 50257),
    # Radford et al. 2019, table 2; Brown et al. 2020 (arXiv 2005.14165), table 2.1: 3.2 M tokens.
    "gpt2-xl": Options("gpt2-xl", n_layer=48, n_head=25, n_embd=1600, batch_size=512),
    "gpt3": Options("gpt3", block_size=2048, n_layer=96, n_head=96, n_embd=12288, batch_size=1536,
                    ranks=1024),
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Calibrate where asked to, search, print; the exit code."""
    import tyro

    base = PRESETS.get(peek(argv, "preset"), PRESETS["gpt2"])
    if peek(argv, "cluster") == "here":
        base = replace(base, dtype="float32")
    options = tyro.cli(Options, args=argv, default=base, prog="minillm plan", use_underscores=True)
    if options.calibrate:
        from minillm.distributed import world

        comm = world()
        try:
            cluster = calibrate(comm)
        except UserError:  # of all ranks alike: rank 0 says it
            if comm.rank:
                return 2
            raise
        if comm.rank == 0:
            print(_measured(cluster))
        return 0
    _check(options)
    print(report(options))
    if options.plot:
        _draw(options)
        print(f"\ndrawn for {COUNTS[0]} to {COUNTS[-1]:,} ranks: {options.plot}")
    return 0


def _draw(options: Options) -> None:
    cluster, per_node = _cluster(options)
    model = Model(_config(options), options.dtype)
    title = f"{model.parameters / 1e6:,.0f} M parameters, {options.dtype}, {cluster.name}"
    plot(
        model, cluster, options.batch_size, options.ranks, Path(options.plot), title, per_node,
        strategy=options.strategy, tp=options.tp, pp=options.pp,
        micro_batch=options.micro_batch_size, recompute=options.recompute,
    )  # fmt: skip


def report(options: Options) -> str:
    """What is planned on what, and the best layouts as a table."""
    cluster, per_node = _cluster(options)
    config = _config(options)
    model = Model(config, options.dtype)
    found = search(
        model, cluster, options.ranks, options.batch_size, options.strategy, options.tp, options.pp,
        options.micro_batch_size, options.recompute, per_node,
    )  # fmt: skip
    shown = found[: options.show]
    width = max(len(str(p.layout)) for p in shown)
    best, local = found[0], min(options.ranks, per_node or cluster.devices)
    nodes = -(-options.ranks // local)
    lines = [
        f"model    GPT, {model.parameters / 1e6:,.1f} M parameters: L={config.n_layer}"
        f" H={config.n_head} C={config.n_embd} T={config.block_size}, {options.dtype}",
        f"cluster  {options.ranks:,} ranks on {nodes:,} node{'s' * (nodes > 1)} of {cluster.name};"
        f" {cluster.source}",
        f"batch    {options.batch_size:,} samples, {best.tokens:,} tokens a step",
        "",
        f"{'layout':<{width}} {'step':>9} {'tokens/s':>12} {'efficiency':>10} {'exposed':>8}"
        f" {'bubble':>7} {'MFU':>6} {'memory a rank':>18}",
        *(_row(p, width) for p in shown),
        "",
        f"{best.layout}: compute {_time(best.compute)}, bubble {_time(best.bubble)}, exposed:"
        f" tensor {_time(best.tensor)}, pipeline {_time(best.pipeline)}, data {_time(best.data)};"
        f" update {_time(best.update)}",
        f"memory a rank: weights {_size(best.weights)}, gradients {_size(best.gradients)},"
        f" optimiser {_size(best.state)}, activations {_size(best.activations)}"
        + (f", process {_size(best.base)}" if best.base else ""),
    ]
    if options.cluster != "here" and any(p.layout.zero == 3 for p in shown):
        lines.append(
            "zero3 hides every byte here: measured runs took 1.8 to 5.3 times as long (arXiv"
            " 2104.04473, table 2)"
        )
    if best.layout.dp > 1:
        lines.append(f"at the start: broadcast of the weights, {_time(best.start)}")
    if options.price:
        hourly = options.price * options.ranks
        billion = hourly / 3600 * 1e9 / best.tokens_per_second
        lines.append(f"cost: {hourly:,.2f} an hour, {billion:,.2f} for a billion tokens")
    lines += ["", *advice(found, vars(options), cuda=options.cluster != "here")]
    return "\n".join(lines)


def _row(p: Prediction, width: int) -> str:
    memory = f"{_size(p.memory)} of {_size(p.limit)}"
    return (
        f"{str(p.layout):<{width}} {_time(p.seconds):>9} {p.tokens_per_second:>12,.0f}"
        f" {p.efficiency:>10.0%} {p.exposed / p.seconds:>8.0%} {p.bubble / p.seconds:>7.0%}"
        f" {p.mfu:>6.0%} {memory:>18}"
    )


def _measured(cluster: Cluster) -> str:
    core = cluster.products["float32"], cluster.memory_rate, cluster.overhead
    lines = [f"{cluster.name}: {cluster.source}"]
    for name, rates in (("a rank a core", core), ("one rank alone", cluster.alone)):
        if rates:
            lines.append(
                f"  {name}: matrix products {rates[0] / 1e9:.1f} GFLOP/s, other kernels"
                f" {rates[1] / 1e9:.2f} GB/s, {rates[2] * 1e6:.0f} us to start each"
            )
    for name, link in (("ranks of a node", cluster.inside), ("nodes", cluster.between)):
        lines.append(
            f"  between {name}: {link.latency * 1e6:.1f} us, {link.bandwidth / 1e9:.2f} GB/s,"
            f" adding {1e-9 / link.adding:.1f} GB/s"
            if link
            else f"  between {name}: not measured"
        )
    return "\n".join(lines)


def _cluster(options: Options) -> tuple[Cluster, int]:
    """The cluster, and how many ranks a node of it has."""
    if options.cluster == "here":
        return calibrated(), options.gpus_per_node or options.ranks
    cluster = published(options.cluster)
    return cluster, options.gpus_per_node or cluster.devices


def _config(options: Options) -> GPTConfig:
    shared = {f.name for f in fields(GPTConfig)} & vars(options).keys()
    chosen = {name: getattr(options, name) for name in shared}
    return GPTConfig(**chosen | {"n_kv_head": options.n_kv_head or None})


def _check(options: Options) -> None:
    for name in ("ranks", "batch_size", "show"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    for name in ("gpus_per_node", "micro_batch_size", "tp", "pp", "price", "n_kv_head"):
        if not getattr(options, name) >= 0:
            raise UserError(f"--{name} {getattr(options, name)}: must not be negative")
    if options.plot and not options.plot.endswith(".svg"):
        raise UserError(f"--plot {options.plot}: name a file that ends in .svg")


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}" if seconds < 1000 else f"{seconds:,.0f} s"
    return f"{seconds * 1e6:.0f} us" if seconds else "0"


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"
