"""Checkpoints of a model that many ranks share: they hold the whole one, as if one rank had it.

    whole    this rank's arrays -> all arrays, whole, on rank 0
    part     all arrays, whole  -> this rank's

Arrays go by the name of their parameter, weights as "blocks.0.mlp.up.weight", an optimiser's state
with a word before it: "exp_avg.blocks.0.mlp.up.weight". They are cut and joined, never computed
with: the bits stay. A run can therefore go on with another grid. A word alone ("step", the count of
steps) is of no parameter, and every rank has it.
"""

from collections.abc import Mapping

import numpy as np

from minillm.device import Array, to_device
from minillm.errors import UserError
from minillm.parallel.grid import Grid
from minillm.parallel.pipeline import Pipeline
from minillm.parallel.splits import cut, cut_shape, join, split_of


def whole(grid: Grid, pipe: Pipeline, arrays: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """The arrays of the whole model, in its order, on the host of rank 0 of `grid.comm`; None on
    all others.

    A collective of `grid.model`; the first copy of the model is the one that is read.

    Args:
        arrays: of this rank, by name: one of each of its parameters, or one for each word, in one
            dtype a word; the words and dtypes are the same on all ranks.
    """
    if grid.model.size == 1:
        return arrays if grid.comm.rank == 0 else None
    if grid.dp.rank > 0:
        return None
    joined = {key: array for key, array in arrays.items() if "." not in key}
    words = dict.fromkeys(_word_and_name(key, pipe)[0] for key in arrays if key not in joined)
    for word in words:
        mine = {name: to_device(arrays[word + name], "cpu")
                for name in pipe.shapes if word + name in arrays}  # fmt: skip
        for name in pipe.shapes:
            array = _gather(grid, pipe, name, mine)
            if array is not None:
                joined[word + name] = array
    return joined if grid.comm.rank == 0 else None


def _gather(
    grid: Grid, pipe: Pipeline, name: str, mine: dict[str, np.ndarray]
) -> np.ndarray | None:
    """One array of the whole model on rank 0 of `grid.model`; None on the others."""
    split, model, tp = split_of(name, pipe.model.config), grid.model, grid.tp.size
    first = pipe.stage_of(name) * tp
    holders = range(first, first + (tp if split else 1))
    if model.rank in holders and model.rank > 0:
        model.send(np.ascontiguousarray(mine[name]).reshape(-1), 0)
    if model.rank > 0:
        return None
    shares = []
    for t, holder in enumerate(holders):
        if holder == 0:
            shares.append(mine[name])
            continue
        shape = cut_shape(pipe.shapes[name], split, t, tp) if split else pipe.shapes[name]
        share = np.empty(shape, next(iter(mine.values())).dtype)
        model.recv(share.reshape(-1), holder)
        shares.append(share)
    return join(shares, split) if split else shares[0]


def part(pipe: Pipeline, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """This rank's share of the arrays of a whole model; those of other stages are left out.

    Raises:
        UserError: an array of no parameter of the model, or of another shape.
    """
    grid = pipe.grid
    if grid.model.size == 1:
        return arrays
    here = {name for name, _ in pipe.model.named_parameters()}
    shares = {}
    for key, array in arrays.items():
        if "." not in key:
            shares[key] = array
            continue
        _, name = _word_and_name(key, pipe)
        if tuple(array.shape) != pipe.shapes[name]:
            raise UserError(
                f"{key} has shape {tuple(array.shape)}, the model's is {pipe.shapes[name]}: it"
                " belongs to another model"
            )
        split = split_of(name, pipe.model.config) if grid.tp.size > 1 else None
        if name in here:
            shares[key] = cut(array, split, grid.tp.rank, grid.tp.size) if split else array
    return shares


def _word_and_name(key: str, pipe: Pipeline) -> tuple[str, str]:
    """("", NAME), or ("exp_avg.", NAME), of a parameter of the model."""
    word, dot, name = key.partition(".")
    if key in pipe.shapes:
        return "", key
    if name not in pipe.shapes:
        raise UserError(f"the model has no parameter {key}: the array belongs to another model")
    return word + dot, name
