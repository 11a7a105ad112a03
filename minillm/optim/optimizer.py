"""What all optimisers share: groups of parameters in flat arrays, and their state.

A step is a few operations on each group's flat arrays, whatever the number of parameters. Learning
rates stay what the groups were made with; a schedule enters each step as a factor, and so does the
gradient clipping, so that neither costs a pass over the gradients nor is hidden in saved state.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minillm.device import Array, to_device, xp_of
from minillm.errors import UserError
from minillm.nn import Module
from minillm.optim.flat import FlatGroup
from minillm.tensor import Tensor


class ParamGroup:
    """Parameters that are updated alike.

    Attributes:
        flat: the parameters and their gradients as flat arrays (n,).
        lr, weight_decay: of these parameters.
        state: flat arrays (n,) that the optimiser keeps, zero at first, by name.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float, state_names: Sequence[str]
    ):
        self.flat = FlatGroup(params)
        self.lr, self.weight_decay = lr, weight_decay
        xp = xp_of(self.flat.data)
        self.state: dict[str, Array] = {name: xp.zeros_like(self.flat.data) for name in state_names}

    def sizes(self) -> np.ndarray:
        """Elements of each parameter, in the order of the flat arrays: what its layout is."""
        return np.diff(self.flat.offsets)


class Optimizer:
    """Base of the optimisers. A subclass names its state and defines `_update`.

    The parameters' arrays move into flat ones here: move the model to its device and dtype before.
    Parameters that do not require a gradient are left out; one that requires it but got none counts
    as having a gradient of zeros.

    Args:
        params: parameters, or groups `{"params": [...], "lr": ..., "weight_decay": ...}` whose
            other entries are optional (see `param_groups`).
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
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
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

    def _update(self, group: ParamGroup, grad_scale: float, lr: float) -> None:
        """Change `group.flat.data` and `group.state` in place, by `grad_scale *
        group.flat.grad`."""
        raise NotImplementedError

    def step(self, grad_scale: float = 1.0, lr_scale: float = 1.0) -> None:
        """Update all parameters by their gradients.

        Args:
            grad_scale: the gradients count times this: the factor that `clip_grad_norm` returns.
            lr_scale: the learning rates count times this: what a schedule says of this step.
        """
        self.steps += 1
        for group in self.groups:
            group.flat.fill_missing_grads()
            self._update(group, grad_scale, group.lr * lr_scale)
            group.flat.changed()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.groups:
            group.flat.zero_grad()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays on the host: "step" and, for group i, "i.sizes" and "i.NAME" of each state array.

        Learning rates and other coefficients are not in it: they are the configuration's.
        """
        state = {"step": np.array([self.steps])}
        for i, group in enumerate(self.groups):
            state[f"{i}.sizes"] = group.sizes()
            for name, array in group.state.items():
                state[f"{i}.{name}"] = to_device(array, "cpu")
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy a `state_dict` into this optimiser's arrays.

        Raises:
            UserError: it belongs to another kind of optimiser or to other parameters.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            raise UserError(
                f"the saved state is not one of {type(self).__name__} with {len(self.groups)} "
                f"groups: it has {', '.join(sorted(state))}; needed are {', '.join(sorted(own))}"
            )
        for i, group in enumerate(self.groups):
            if not np.array_equal(state[f"{i}.sizes"], group.sizes()):
                raise UserError(
                    f"the saved optimiser state of group {i} is of parameters of other sizes or in"
                    " another order: it belongs to another model"
                )
        self.steps = int(state["step"].item())
        for i, group in enumerate(self.groups):
            for name, array in group.state.items():
                array[...] = to_device(state[f"{i}.{name}"], group.flat.params[0].device)


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


def param_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimiser: what decays and what does not.

    Parameters with two or more dimensions decay: the matrices of linear layers, and embeddings, as
    in nanoGPT. Biases and the weights of norms do not: they set scales and offsets, which decay
    would only pull away from where they belong.
    """
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
