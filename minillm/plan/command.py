"""The command that trains in a layout, where train.py can.

In: what was planned, and the best predictions. Out: a line to paste, or what train.py lacks. What
the line does not say is as the preset of train.py has it: text, steps, learning rate.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from minillm.plan.layout import Layout
from minillm.plan.predict import BUCKET, Prediction
from minillm.train.config import PRESETS
from minillm.train.options import Config


def advice(found: Sequence[Prediction], wanted: dict[str, Any], cuda: bool) -> list[str]:
    """How to run the fastest of `found` that train.py can run, and why not a faster one.

    Args:
        found: predictions, the fastest first.
        wanted, cuda: as for `command`.
    """
    can = next((p for p in found if not lacking(p.layout, wanted["dtype"])), None)
    faster = found[: found.index(can)] if can else found
    lacks = sorted({what for p in faster for what in lacking(p.layout, wanted["dtype"])})
    why = f"train.py has no {', '.join(lacks)} yet: "
    if can is None:
        return [f"{why}it can run none of these layouts"]
    slower = f"the fastest that it can run takes {can.seconds / found[0].seconds:.2f} times as long"
    said = [why + slower] if lacks else []
    return [*said, f"to run {can.layout}:", f"    {command(can.layout, wanted, cuda)}"]


def lacking(layout: Layout, dtype: str) -> list[str]:
    """What train.py would need for this layout, and has not."""
    lacks = [f"zero{layout.zero}"] * (layout.zero > 1) + ["recomputation"] * layout.recompute
    return lacks + ["half-precision weights (mixed)"] * (dtype == "mixed")


def command(layout: Layout, wanted: dict[str, Any], cuda: bool) -> str:
    """`mpirun -n RANKS python train.py ...`, for a layout that lacks nothing.

    Args:
        wanted: values by the names of train.py's options; others are passed over. A preset that
            train.py has not counts as its gpt2.
        cuda: whether to compute on GPUs.
    """
    base = PRESETS.get(wanted["preset"], PRESETS["gpt2"])
    wanted = wanted | options(layout) | {"preset": base.preset}
    if base.tokenizer != "bpe" or wanted["vocab_size"] == (base.vocab_size or 1024):
        wanted["vocab_size"] = base.vocab_size  # the tokenizer's own
    if cuda:
        wanted |= {"device": "cuda", "bucket_mb": BUCKET / 2**20}
    words = ["--preset", base.preset]
    for field in dataclasses.fields(Config):
        usual = getattr(base, field.name)
        value = wanted.get(field.name, usual)
        if value != usual and isinstance(value, bool):
            words.append(f"--{field.name}" if value else f"--no_{field.name}")
        elif value != usual:
            words += [f"--{field.name}", f"{value:g}" if isinstance(value, float) else str(value)]
    start = ["mpirun", "-n", str(layout.ranks)] if layout.ranks > 1 else []
    return shlex.join([*start, "python", "train.py", *words])


def options(layout: Layout) -> dict[str, Any]:
    """What train.py is told of a layout, besides the number of ranks."""
    sync = "zero1" if layout.zero else "bucketed"
    return {"tp": layout.tp, "pp": layout.pp, "sync": sync, "micro_batch_size": layout.micro_batch}
