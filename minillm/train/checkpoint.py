"""Checkpoints: safetensors and JSON in a folder that is either whole or not there.

    OUT/checkpoints/step-00000200/
        model.safetensors       the model's state_dict
        optimizer.safetensors   the optimiser's state, by parameter
        tokenizer.json          what turns text into the tokens the model knows
        state.json              format, step, configuration, data key; size and sha256 of each file

A checkpoint is written to a temporary folder, flushed to disk, and renamed. A run killed at any
moment therefore leaves whole checkpoints and at most one `.tmp-*` folder, which the next save
sweeps away. The one before the newest is kept.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minillm.errors import UserError

FORMAT = "minillm checkpoint 2"
_NAME = re.compile(r"step-(\d{8})")


@dataclass
class Checkpoint:
    """A whole checkpoint, read and verified. Arrays are on the host.

    Attributes:
        step: optimiser steps done.
        model, optimizer: arrays by name.
        state: what else was saved: configuration, data key, optimiser scalars.
    """

    path: Path
    step: int
    model: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    state: dict[str, Any]


def checkpoints(out: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    folder = out / "checkpoints"
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if _NAME.fullmatch(path.name))


def save(
    out: Path,
    step: int,
    model: dict[str, np.ndarray],
    optimizer: dict[str, np.ndarray],
    tokenizer: Any,
    state: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Write a checkpoint of `step` and remove all but the newest `keep`.

    Args:
        model, optimizer: arrays by name, on the host.
        tokenizer: has `save(path)`.
        state: anything JSON can hold.

    Raises:
        UserError: it cannot be written, as on a full disk. Earlier ones stay.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder = out / "checkpoints"
    target = folder / f"step-{step:08d}"
    temporary = folder / f".tmp-{target.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary.mkdir()
        save_file(_contiguous(model), temporary / "model.safetensors")
        save_file(_contiguous(optimizer), temporary / "optimizer.safetensors")
        tokenizer.save(temporary / "tokenizer.json")
        files = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
        state = {"format": FORMAT, "step": step, "files": files, **state}
        (temporary / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        for path in [*temporary.iterdir(), temporary]:
            _flush(path)
        if target.exists():  # the same step once more, after resuming from the one before it
            shutil.rmtree(target)
        temporary.rename(target)
        _flush(folder)
        for old in checkpoints(out)[:-keep]:
            shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"cannot write the checkpoint {target} ({error}): make room, then go on from the last"
            " one with --resume"
        ) from error
    return target


def load(path: Path) -> Checkpoint:
    """Read a checkpoint folder, or the newest of a run folder, and verify every byte.

    Raises:
        UserError: there is none, it is not one of ours, or a file is missing, cut short or changed.
    """
    from safetensors.numpy import load_file

    folder, state = read_state(path)
    for name, expected in state["files"].items():
        _verify(folder / name, expected)
    return Checkpoint(
        folder,
        state["step"],
        load_file(folder / "model.safetensors"),
        load_file(folder / "optimizer.safetensors"),
        state,
    )


def read_state(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a checkpoint, or of the newest of a run folder, and its state.json alone.

    Raises:
        UserError: there is none, or it is not one of ours.
    """
    folder = _newest(path)
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a checkpoint of minillm: state.json: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{folder} is not a checkpoint of minillm: state.json lacks {FORMAT!r}")
    return folder, state


def _newest(path: Path) -> Path:
    if _NAME.fullmatch(path.name) or (path / "state.json").exists():
        return path
    found = checkpoints(path)
    if not found:
        raise UserError(
            f"no checkpoint in {path}: start a run first, or give its folder with --out"
        )
    return found[-1]


def _verify(path: Path, expected: dict[str, Any]) -> None:
    remedy = f"delete {path.parent} to go on from the checkpoint before it"
    if not path.exists():
        raise UserError(f"damaged checkpoint: {path} is missing; {remedy}")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise UserError(
            f"damaged checkpoint: {path} has {size} of {expected['bytes']} bytes; {remedy}"
        )
    if _digest(path)["sha256"] != expected["sha256"]:
        raise UserError(f"damaged checkpoint: {path} was changed after it was written; {remedy}")


def _contiguous(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _digest(path: Path) -> dict[str, Any]:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return {"bytes": path.stat().st_size, "sha256": sha256.hexdigest()}


def _flush(path: Path) -> None:
    """Make sure that a file's bytes, or a folder's names, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
