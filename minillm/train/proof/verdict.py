"""From what the runs of a case have left to a verdict: do many ranks train as one process does?

With a the parameters of a case after some step, and b those of one process on the whole batch,

    difference = max over steps of  (max |a - b| / max |b|)

must be at most 1e-10 in float64. What several ranks hold must be the same bits on all of them after
every step, and a second run must have the bits of the first.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from minillm.train.metrics import read
from minillm.train.proof.cases import Case

BAR = 1e-10


@dataclass(frozen=True)
class Verdict:
    """What came of a case; None is what was not looked at.

    Attributes:
        difference: the largest to one process, relative.
        where: the step and the parameter that has it.
        replicas: whether ranks that hold the same parameters had the same bits after each step.
        repeated: whether the second run had the bits of the first.
        loss: on validation text, at the end.
        bytes_a_step: sent by the rank that sent the most.
        note: what else there is to say; of a failed run, why.
        failed: it is not what it has to be.
    """

    name: str
    kind: str
    ranks: str
    difference: float | None = None
    where: str = ""
    replicas: bool | None = None
    repeated: bool | None = None
    loss: float | None = None
    bytes_a_step: int | None = None
    note: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Kept:
    """What the stages of one run left, one after the other.

    Attributes:
        parameters: (steps, *shape) by name.
        digests: after each step, of each rank, by name of the array.
        bytes_a_step: of the rank that sent the most, with whatever the proof itself has sent.
        shares: in words, where they changed.
        records: of metrics.jsonl.
    """

    parameters: dict[str, np.ndarray]
    digests: list[list[dict[str, str]]]
    bytes_a_step: int
    shares: str
    records: list[dict[str, Any]]


def load(run: Path, case: Case) -> Kept:
    """What one run of a case left in its folder: "stage-0", ..., and "run", train.py's own."""
    parts, digests = [], []
    for i, stage in enumerate(case.stages):
        folder = run / f"stage-{i}"
        path = folder / "parameters.npz"
        parts.append(dict(np.load(path)) if path.exists() else {})
        paths = [folder / f"rank-{rank}.json" for rank in range(stage.ranks)]
        seen = [json.loads(p.read_text()) if p.exists() else {} for p in paths]
        # By step: of each rank, with {} where it was not there.
        digests += zip_longest(*(s.get("digests", ()) for s in seen), fillvalue={})
    first, last = seen[0]["first_shares"], seen[0]["last_shares"]
    return Kept(
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        [list(step) for step in digests],
        round(max(s.get("bytes_sent", 0) for s in seen) / case.what["steps"]),
        f"shares {first} -> {last}" if first != last else "",
        read(run / "run" / "metrics.jsonl"),
    )


def largest_difference(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> tuple[float, str]:
    """The largest over all steps of max |a - b| / max |b|, and where: infinite if they differ in
    names, shapes or steps, or are not finite."""
    shapes = ({name: a.shape for name, a in arrays.items()} for arrays in (ours, theirs))
    if not ours or len({json.dumps(s, sort_keys=True) for s in shapes}) > 1:
        return inf, "other parameters, or not as many steps"
    steps = len(next(iter(ours.values())))

    def largest(array: np.ndarray) -> np.ndarray:
        return np.abs(array).reshape(steps, -1).max(1)

    scale = np.max([largest(b) for b in theirs.values()], axis=0)  # (steps,)
    each = np.array([largest(a - theirs[name]) / scale for name, a in ours.items()])
    each[~np.isfinite(each)] = inf  # NaN compares as if nothing were wrong
    which, step = np.unravel_index(each.argmax(), each.shape)
    return float(each.max()), f"step {step + 1}, {list(ours)[which]}"


def replicas_differ(digests: list[list[dict[str, str]]]) -> str:
    """Where ranks first had other bits of the same array; empty if nowhere."""
    for step, ranks in enumerate(digests, 1):
        known: dict[str, str] = {}
        for rank, arrays in enumerate(ranks):
            for name, digest in arrays.items():
                if known.setdefault(name, digest) != digest:
                    return f"step {step}: rank {rank} has other bits of {name}"
    return ""


def incomplete(digests: list[list[dict[str, str]]], steps: int) -> str:
    """Why not all ranks were seen after all steps, or nothing: what is not there cannot differ."""
    if len(digests) != steps:
        return f"{len(digests)} steps were done, not {steps}"
    for step, ranks in enumerate(digests, 1):
        for rank, arrays in enumerate(ranks):
            if not arrays:
                return f"step {step}: rank {rank} had no parameters"
    return ""


def judge(case: Case, runs: list[Kept], reference: Kept | None) -> Verdict:
    """What its runs, one or two, prove.

    Args:
        reference: of the same `what`; none for kind "loss".
    """
    first = runs[0]
    if case.kind != "loss" and (why := incomplete(first.digests, case.what["steps"])):
        return failed(case, why)
    loss = next(record["val_loss"] for record in first.records if "val_loss" in record)
    verdict = Verdict(case.name, case.kind, case.ranks, loss=loss)
    if case.kind == "loss":
        return replace(verdict, bytes_a_step=first.bytes_a_step)
    apart = replicas_differ(first.digests)
    repeated = runs[1].digests == first.digests if case.runs == 2 else None
    notes, over = [apart], False
    if case.slow >= 0:
        notes.append(first.shares or "the shares did not change: nothing was balanced")
    if case.kind == "reference":
        for step, (before, after) in enumerate(zip(first.digests, first.digests[1:]), 2):
            if before == after and not over:
                over = True
                notes.append(f"step {step} has changed nothing")
        if most := case.what["grad_clip"]:
            norms = [record["grad_norm"] for record in first.records if "grad_norm" in record]
            notes.append(f"clipped in {sum(n > most for n in norms)} of {len(norms)} steps")
    else:
        assert reference is not None
        difference, where = largest_difference(first.parameters, reference.parameters)
        over = not (difference <= BAR if case.kind == "exact" else difference < inf)
        if over:
            notes.append(f"largest in {where}")
        found = difference if difference < inf else None  # JSON has no infinity
        verdict = replace(verdict, difference=found, where=where)
    return replace(
        verdict, replicas=not apart, repeated=repeated, note="; ".join(filter(None, notes)),
        failed=bool(over or apart or repeated is False),
    )  # fmt: skip


def failed(case: Case, why: str) -> Verdict:
    """On a case that could not be run to its end."""
    return Verdict(case.name, case.kind, case.ranks, note=why, failed=True)
