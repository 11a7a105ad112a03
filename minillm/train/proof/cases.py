"""The ways to train that `minillm prove-ddp` compares with one process, and how each is run.

In: numbers of ranks, steps, a dtype. Out: cases; each is one start of train.py, or two of which the
second resumes the first on other ranks. Those with the same `what` train the same, whatever their
ranks and strategy: equal parameters are to come out, those of one process.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from minillm.errors import UserError
from minillm.parallel import check
from minillm.train.config import Config, model_config

SAMPLES = 10  # of a step: few, and no power of two, so that most shares and tails are uneven
LOSS_STEPS = 100  # of the runs whose losses are compared

Options = dict[str, Any]

_GPT2: Options = {"n_layer": 3, "n_head": 4, "n_embd": 16, "bias": True}
_LLAMA: Options = {
    "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 16, "bias": False, "position": "rotary",
    "norm": "rms_norm", "activation": "swiglu", "tie_embeddings": False,
}  # fmt: skip
_MODELS = {"GPT-2": _GPT2, "Llama": _LLAMA}
_EXACT = ("naive", "bucketed", "zero1", "parameter-server")
_UNEVEN: Options = {"micro_batch_size": 2}
_SPLIT: Options = {"micro_batch_size": 4}  # fewer: every layer of each sends messages
_NOT_EXACT: dict[str, Options] = {
    "local-sgd, average each 4 steps": {"sync": "local-sgd", "local_steps": 4},
    "local-sgd, half of the ranks a round": {
        "sync": "local-sgd", "local_steps": 4, "participation": 0.5,
    },
    "parameter-server, staleness 2": {"sync": "parameter-server", "staleness": 2},
    "bucketed, bf16": {"compress": "bf16"},
    "bucketed, int8": {"compress": "int8"},
    "bucketed, top 1 % of values": {"compress": "topk"},
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One start of train.py: on how many ranks, with which options of distribution."""

    ranks: int
    how: Options


@dataclass(frozen=True)
class Case:
    """A way to train, to be compared with one process.

    Attributes:
        name: for people.
        kind: "reference", one process; "exact", held to the bar; "close", whose difference is only
            reported; "loss", another method, whose loss is reported.
        what: options that say what is trained: equal ones must give equal parameters.
        stages: one after the other, the second resumes where the first has stopped half-way.
        slow: the rank that is held up, or -1.
    """

    name: str
    kind: str
    what: Options
    stages: tuple[Stage, ...]
    slow: int = -1

    @property
    def ranks(self) -> str:
        """How many, in words."""
        return " -> ".join(str(stage.ranks) for stage in self.stages)

    @property
    def runs(self) -> int:
        """How often it is run: twice where the second run must have the same bits."""
        return 1 if self.kind == "loss" or self.slow >= 0 else 2


def cases(ranks: Iterable[int], steps: int, dtype: str) -> list[Case]:
    """All of them, each after its reference.

    Raises:
        UserError: no steps, no ranks, or more of them than samples.
    """
    counts = sorted(set(ranks))
    if not counts or counts[0] < 1:
        raise UserError(f"--ranks {' '.join(map(str, ranks)) or 'nothing'}: give numbers above 0")
    if counts[-1] > SAMPLES:
        raise UserError(f"--ranks {counts[-1]}: a step has {SAMPLES} samples, one a rank at least")
    if steps < 2:
        raise UserError(f"--steps {steps}: must be at least 2")
    shared = {"batch_size": SAMPLES, "grad_clip": 1.0, "steps": steps, "dtype": dtype}
    gpt2, llama = ({**model, **shared} for model in _MODELS.values())
    loose = {**gpt2, "grad_clip": 0.0}
    found = [
        Case(f"one process, {name}", "reference", {**model, **shared}, (Stage(1, {}),))
        for name, model in _MODELS.items()
    ]
    found.append(Case("one process, not clipped", "reference", loose, (Stage(1, {}),)))
    for n in counts:
        for sync in _EXACT:
            stage = Stage(n, {"sync": sync, **_UNEVEN})
            found.append(Case(f"{sync}, micro-batches of 2", "exact", gpt2, (stage,)))
        if n > 1:
            found += _on_ranks(n, gpt2, llama, loose)
    found += _resumed(counts, gpt2, llama)
    single = {**gpt2, "dtype": "float32"}
    if dtype != "float32" and counts[-1] > 1:
        found.append(Case("one process, float32", "reference", single, (Stage(1, {}),)))
        found += [
            Case("bucketed, float32", "close", single, (Stage(n, _UNEVEN),))
            for n in counts
            if n > 1
        ]
    if counts[-1] > 1:
        long = {**single, "steps": LOSS_STEPS}
        methods = {"bucketed, the exact one beside": {"sync": "bucketed"}, **_NOT_EXACT}
        found += [
            Case(name, "loss", long, (Stage(counts[-1], how),)) for name, how in methods.items()
        ]
    if dtype != "float64":
        found = [replace(case, kind="close") if case.kind == "exact" else case for case in found]
    return found


def _on_ranks(n: int, gpt2: Options, llama: Options, loose: Options) -> list[Case]:
    """Those of n > 1 ranks that are not just a strategy."""
    found = [
        Case("bucketed, Llama", "exact", llama, (Stage(n, _UNEVEN),)),
        Case("zero1, one micro-batch, not clipped", "exact", loose, (Stage(n, {"sync": "zero1"}),)),
        Case("dynamic balance, rank 1 slow", "exact", gpt2,
             (Stage(n, {"balance": "dynamic", **_UNEVEN}),), slow=1),
    ]  # fmt: skip
    for name, what in (("GPT-2", gpt2), ("Llama", llama)):
        for grid in _grids(n, what):
            sync = "zero1" if name == "Llama" and grid["dp"] > 1 else "bucketed"
            words = " x ".join(f"{axis} {size}" for axis, size in grid.items() if size > 1)
            how = {**grid, "sync": sync, **_SPLIT}
            found.append(Case(f"{words}, {sync}, {name}", "exact", what, (Stage(n, how),)))
    return found


def _grids(n: int, what: Options) -> list[Options]:
    """All grids of n ranks that split the model and that it can be split into."""
    found = []
    for tp in range(1, n + 1):
        for pp in range(1, n // tp + 1):
            dp = n // (tp * pp)
            if tp * pp == 1 or dp * tp * pp != n:
                continue
            try:
                check(model_config(Config(**what), 27), n, dp, tp, pp, SAMPLES)
            except UserError:
                continue
            found.append({"tp": tp, "pp": pp, "dp": dp})
    return found


def _resumed(counts: list[int], gpt2: Options, llama: Options) -> list[Case]:
    """Runs that go on with other ranks than they began with."""
    if len(counts) < 2:
        return []
    few, many = counts[0], counts[-1]
    ways = [(few, "naive", many, "zero1"), (many, "zero1", few, "bucketed")]
    found = [
        Case(f"{before}, resumed with {after}", "exact", gpt2,
             (Stage(a, {"sync": before, **_UNEVEN}), Stage(b, {"sync": after})))
        for a, before, b, after in ways
    ]  # fmt: skip
    grids = sorted(_grids(many, llama), key=lambda grid: grid["dp"])
    for grid in grids[:1]:
        words = " x ".join(f"{axis} {size}" for axis, size in grid.items() if size > 1)
        whole = {"tp": 1, "pp": 1, "dp": 0}
        stages = Stage(many, {**grid, **_SPLIT}), Stage(counts[-2], {**whole, "sync": "zero1"})
        found.append(Case(f"{words}, resumed with zero1, Llama", "exact", llama, stages))
    return found
