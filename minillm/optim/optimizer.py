"""What all optimisers share: groups of parameters in flat arrays, and their state.

A step is a few operations on each group's flat arrays, whatever the number of parameters. Learning
rates stay what the groups were made with; a schedule enters each step as a factor, and so does the
gradient clipping, so that neither costs a pass over the gradients nor is hidden in saved state.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from minillm.device import Array, to_device, xp_of
from minillm.errors import UserError
from minillm.nn import Module
from minillm.optim.flat import FlatGroup
from minillm.tensor import Tensor


class Shard:
    """A stretch of a group's flat arrays, with the optimiser's state for it.

    Attributes:
        part: which stretch, a slice.
        data, grad: views (m,) of the flat arrays.
        state: arrays (m,) that the optimiser keeps, zero at first, by name.
    """

    def __init__(self, flat: FlatGroup, part: slice, state_names: Sequence[str]):
        self.part, self._state_names = part, state_names
        self.data, self.grad = flat.data[part], flat.grad[part]

    @cached_property
    def state(self) -> dict[str, Array]:
        """Made at its first use: a shard that others replace before takes no memory for it."""
        xp = xp_of(self.data)
        return {name: xp.zeros_like(self.data) for name in self._state_names}


class ParamGroup:
    """Parameters that are updated alike.

    Attributes:
        flat: the parameters and their gradients as flat arrays (n,).
        names: of the parameters, in the order of the flat arrays.
        lr, weight_decay: of these parameters.
        counted: whether their gradients enter the global norm: not where another rank counts them.
        shards: what this process updates: all of it in one shard, unless `shard` said otherwise.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        names: Sequence[str],
        lr: float,
        weight_decay: float,
        state_names: Sequence[str],
        counted: bool = True,
    ):
        self.flat = FlatGroup(params)
        self.names = list(names)[::-1]
        self.lr, self.weight_decay, self.counted = lr, weight_decay, counted
        self.state_names = tuple(state_names)
        self.shards: list[Shard] = []
        self.shard([slice(0, self.flat.data.size)])

    def shard(self, parts: Iterable[slice]) -> None:
        """Update only these stretches of the flat arrays from now on; state starts from zero."""
        self.shards = []  # frees the state there was, before there is other
        self.shards = [Shard(self.flat, part, self.state_names) for part in parts]

    def by_name(self, word: str, array: np.ndarray) -> dict[str, np.ndarray]:
        """A flat array (n,), cut into "WORD.NAME" of the shape of each parameter: views."""
        edges = zip(self.flat.offsets, self.flat.offsets[1:])
        return {
            f"{word}.{name}": array[start:stop].reshape(p.shape)
            for name, p, (start, stop) in zip(self.names, self.flat.params, edges)
        }

    def flattened(self, word: str, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """The flat array (n,) that `by_name` has cut, anew."""
        return np.concatenate([state[f"{word}.{name}"].reshape(-1) for name in self.names])

    def flat_state(self, name: str) -> np.ndarray:
        """A state array (n,) on the host: zeros where this process has no shard."""
        if len(self.shards) == 1 and self.shards[0].data.size == self.flat.data.size:
            return to_device(self.shards[0].state[name], "cpu")
        whole = np.zeros(self.flat.data.size, self.flat.data.dtype)
        for shard in self.shards:
            whole[shard.part] = to_device(shard.state[name], "cpu")
        return whole


class Optimizer:
    """Base of the optimisers. A subclass names its state and defines `_update`.

    The parameters' arrays move into flat ones here: move the model to its device and dtype before.
    Parameters that do not require a gradient are left out; one that requires it but got none counts
    as having a gradient of zeros.

    Args:
        params: parameters, or groups `{"params": [...], "names": [...], "lr": ...,
            "weight_decay": ...}` whose other entries are optional (see `param_groups`). Parameters
            without names are called by their number.
        lr: learning rate.
        weight_decay: coefficient of weight decay.

    Attributes:
        groups: one ParamGroup for each group that is not empty.
        steps: how many steps were taken.

    Raises:
        UserError: no parameters, one given twice, a computed tensor, or a negative coefficient.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float,
        weight_decay: float,
        state_names: Sequence[str],
    ):
        params = list(params)
        if not params or isinstance(params[0], Tensor):
            params = [{"params": params}]
        groups = [{"lr": lr, "weight_decay": weight_decay, **group} for group in params]
        number = count()
        for group in groups:
            given = list(group["params"])
            names = group.get("names") or [str(next(number)) for _ in given]
            group["params"] = [p for p in given if p.requires_grad]
            group["names"] = [name for name, p in zip(names, given) if p.requires_grad]
            non_negative(lr=group["lr"], weight_decay=group["weight_decay"])
        everything = [id(p) for group in groups for p in group["params"]]
        if len(set(everything)) < len(everything):
            raise UserError("a parameter is given to the optimiser twice")
        if any(not p.is_leaf for group in groups for p in group["params"]):
            raise UserError(
                "the optimiser was given a computed tensor, not a parameter: give it a list of"
                " parameters ([w], not w) that were not made by an op"
            )
        if not everything:
            raise UserError("no parameters to optimise")
        self.groups = [ParamGroup(state_names=state_names, **g) for g in groups if g["params"]]
        self.steps = 0

    def _update(self, shard: Shard, grad_scale: float, lr: float, weight_decay: float) -> None:
        """Change `shard.data` and `shard.state` in place, by `grad_scale * shard.grad`."""
        raise NotImplementedError

    def step(
        self,
        grad_scale: float = 1.0,
        lr_scale: float = 1.0,
        updated: Callable[[Shard], None] = lambda shard: None,
    ) -> None:
        """Update all parameters by their gradients.

        Args:
            grad_scale: the gradients count times this: the factor that `clip_grad_norm` returns.
            lr_scale: the learning rates count times this: what a schedule says of this step.
            updated: called with each shard as soon as it is.
        """
        self.steps += 1
        for group in self.groups:
            group.flat.fill_missing_grads()
            for shard in group.shards:
                self._update(shard, grad_scale, group.lr * lr_scale, group.weight_decay)
                updated(shard)
            group.flat.changed()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.groups:
            group.flat.zero_grad()

    def state_dict(
        self, flat_state: Callable[[ParamGroup, str], np.ndarray] = ParamGroup.flat_state
    ) -> dict[str, np.ndarray]:
        """Arrays on the host: "step", and "STATE.NAME" for each state of each parameter, shaped as
        the parameter. On the CPU they are the optimiser's own memory: copy what must not change.

        Learning rates and other coefficients are not in it: they are the configuration's.

        Args:
            flat_state: where a group's state arrays (n,) come from, if other processes have some.
        """
        state = {"step": np.array([self.steps])}
        for group in self.groups:
            for name in group.state_names:
                state |= group.by_name(name, flat_state(group, name))
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy a `state_dict` into this optimiser's arrays: of each, the shards it has.

        Raises:
            UserError: it belongs to another kind of optimiser or to other parameters. Nothing is
                changed.
        """
        shapes = {"step": (1,)}
        for group in self.groups:
            for name, p in zip(group.names, group.flat.params):
                shapes |= {f"{state_name}.{name}": p.shape for state_name in group.state_names}
        if wrong := sorted(shapes.keys() ^ state.keys()):
            raise UserError(
                f"the saved state is not one of {type(self).__name__} for these parameters:"
                f" {', '.join(wrong[:5])}{' ...' * (len(wrong) > 5)} are only here or only there"
            )
        for name, shape in shapes.items():
            if tuple(state[name].shape) != shape:
                raise UserError(
                    f"the saved optimiser state {name} has shape {tuple(state[name].shape)}, not"
                    f" {shape}: it belongs to another model"
                )
        self.steps = int(state["step"].item())
        for group in self.groups:
            for name in group.state_names:
                array, device = group.flattened(name, state), group.flat.params[0].device
                for shard in group.shards:
                    shard.state[name][...] = to_device(array[shard.part], device)


def non_negative(**values: float) -> None:
    """Raise UserError for a value below zero or NaN, by its name."""
    for name, value in values.items():
        if not value >= 0:
            raise UserError(f"{name} is {value}: it must not be negative")


def fraction(**values: float) -> None:
    """Raise UserError for a value outside [0, 1), by its name."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} is {value}: it must be at least 0 and below 1")


def param_groups(
    model: Module,
    weight_decay: float,
    counted: Callable[[str], bool] = lambda name: True,
    shared: Callable[[str], str] = lambda name: "",
) -> list[dict[str, Any]]:
    """Groups for an optimiser: what decays and what does not.

    Parameters with two or more dimensions decay: the matrices of linear layers, and embeddings, as
    in nanoGPT. Biases and the weights of norms do not: they set scales and offsets, which decay
    would only pull away from where they belong.

    Args:
        counted: whether the gradient of a parameter, by name, enters the global norm.
        shared: with which other ranks this one shares a parameter, in a word; "" with none. Each
            word has groups of its own: compression, and the order of additions, make of a number
            what the rest of its array wants, and those ranks must all get the same bits.
    """
    groups: dict[tuple[str, bool, bool], dict[str, Any]] = {}

    def group_of(word: str, counts: bool, decays: bool) -> dict[str, Any]:
        new = {"params": [], "names": [], "weight_decay": weight_decay if decays else 0.0}
        return groups.setdefault((word, counts, decays), {**new, "counted": counts})

    for decays in (True, False):
        group_of("", True, decays)  # the first two, even if they are empty
    for name, p in model.named_parameters():
        group = group_of(shared(name), counted(name), p.ndim >= 2)
        group["params"].append(p)
        group["names"].append(name)
    return list(groups.values())
