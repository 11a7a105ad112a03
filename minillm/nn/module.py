"""Module: parameters and smaller modules under names, found through plain attributes.

What a module holds is what its attributes are: a Parameter is trained and saved, a Module is looked
into, anything else is its own affair. There is no registration, and `super().__init__()` is
optional.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minillm.device import Array, to_device
from minillm.errors import UserError
from minillm.tensor import Tensor, add_hook, raw


class Parameter(Tensor):
    """A Tensor that a module trains: it requires a gradient and has a name in `state_dict`."""

    __slots__ = ()

    def __init__(self, data: Any, dtype: Any = None):
        super().__init__(data, requires_grad=True, dtype=dtype)


class Module:
    """Base of all layers and models. A subclass assigns attributes and defines `forward`.

    Attributes:
        training: True in training, False in evaluation; dropout looks at it.
    """

    training: bool = True
    # Tuples on the class: an instance gets its own at its first hook.
    _pre_hooks: tuple[Callable, ...] = ()
    _hooks: tuple[Callable, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for hook in self._pre_hooks:
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        out = self.forward(*args, **kwargs)
        for hook in self._hooks:
            changed = hook(self, args, out)
            out = out if changed is None else changed
        return out

    # --- what is inside -------------------------------------------------------------------------

    def _members(self) -> Iterator[tuple[str, Any]]:
        """Names and values of what may be parameters and modules; containers override it."""
        yield from vars(self).items()

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of each module directly inside."""
        return ((name, value) for name, value in self._members() if isinstance(value, Module))

    def children(self) -> Iterator["Module"]:
        """The modules directly inside."""
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """(path, module) of this module, whose path is "", and of all inside; shared ones once."""
        seen: set[int] = set()

        def walk(module: Module, path: str) -> Iterator[tuple[str, Module]]:
            if id(module) in seen:
                return
            seen.add(id(module))
            yield path, module
            for name, child in module.named_children():
                yield from walk(child, f"{path}.{name}" if path else name)

        return walk(self, prefix)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) in order of assignment; a shared parameter once, by its first path."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in module._members():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def parameters(self) -> Iterator[Parameter]:
        """The parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.data.size for parameter in self.parameters())

    def apply(self, fn: Callable[["Module"], Any]) -> "Module":
        """Call `fn(module)` on all modules inside, then on this one; returns self."""
        for _, module in reversed(list(self.named_modules())):
            fn(module)
        return self

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays of all parameters by path, on the host. On the CPU they are the parameters' own
        memory: copy what must not change."""
        return {name: to_device(p.data, "cpu") for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array | Tensor], strict: bool = True) -> None:
        """Copy `state` into the parameters' arrays, which stay where they are.

        Args:
            state: arrays or Tensors by path, of any device; cast to the parameters' dtypes.
            strict: False passes over names that are missing here or there.

        Raises:
            UserError: lists the names missing, unexpected, and of another shape. Nothing is
                changed.
        """
        own = dict(self.named_parameters())
        wrong = []
        if strict and (missing := [name for name in own if name not in state]):
            wrong.append(f"missing {', '.join(missing)}")
        if strict and (unexpected := [name for name in state if name not in own]):
            wrong.append(f"unexpected {', '.join(unexpected)}")
        wrong += [
            f"{name} has shape {tuple(state[name].shape)}, the model's is {p.shape}"
            for name, p in own.items()
            if name in state and tuple(state[name].shape) != p.shape
        ]
        if wrong:
            raise UserError(f"state_dict does not fit {type(self).__name__}: {'; '.join(wrong)}")
        for name, p in own.items():
            if name in state:
                p.data[...] = to_device(raw(state[name]), p.device)
                p.version.count += 1

    def train(self, mode: bool = True) -> "Module":
        """Set `training` here and in all modules inside; returns self."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        """`train(False)`."""
        return self.train(False)

    def to(self, target: Any) -> "Module":
        """Move all parameters to a device ("cpu", "cuda") or a floating dtype; returns self.

        Raises:
            UserError: an optimiser already holds the parameters in flat arrays, or the dtype is not
                floating.
        """
        for name, p in self.named_parameters():  # before any of them moves
            if p.grad_buffer is not None:
                raise UserError(
                    f"{name} lies in an optimiser's flat array: call to({target!r}) before the"
                    " optimiser is made"
                )
        for p in self.parameters():
            moved = p.detach().to(target).data
            if moved.dtype.kind in "biu":
                raise UserError(
                    f"parameters cannot be of dtype {moved.dtype}: choose a floating one"
                )
            p.data = moved
            if p.grad is not None:
                p.grad = p.grad.to(target)
        return self

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    # --- hooks ----------------------------------------------------------------------------------

    def register_forward_pre_hook(self, hook: Callable) -> Callable[[], None]:
        """Call `hook(module, args)` before forward; what it returns, if anything, replaces args.
        Returns a function that removes the hook."""
        return add_hook(self, "_pre_hooks", hook)

    def register_forward_hook(self, hook: Callable) -> Callable[[], None]:
        """Call `hook(module, args, output)` after forward; what it returns, if anything, replaces
        the output. Returns a function that removes the hook."""
        return add_hook(self, "_hooks", hook)

    # --- how it prints --------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What `repr` says about this module besides what is inside."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {body}" for name, body in _collapse(self.named_children())]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        inner = "\n".join([*filter(None, [self.extra_repr()]), *lines]).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {inner}\n)"


def _collapse(children: Iterable[tuple[str, Module]]) -> list[tuple[str, str]]:
    """Names and texts, neighbours that print alike joined as "0-3", "4 x Block(...)"."""
    runs: list[tuple[list[str], str]] = []
    for name, child in children:
        text = repr(child)
        if runs and runs[-1][1] == text and name.isdigit():
            runs[-1][0].append(name)
        else:
            runs.append(([name], text))
    return [
        (names[0], text)
        if len(names) == 1
        else (f"{names[0]}-{names[-1]}", f"{len(names)} x {text}")
        for names, text in runs
    ]


class ModuleList(Module):
    """Modules under the names "0", "1", ...; holds them, does not run them.

    Args:
        first: the number in the first one's name. It is 0 but for a part of a longer list.
    """

    def __init__(self, modules: Iterable[Module] = (), first: int = 0):
        self._list, self._first = list(modules), first

    def _members(self) -> Iterator[tuple[str, Any]]:
        yield from super()._members()  # what a subclass adds
        yield from ((str(i), module) for i, module in enumerate(self._list, self._first))

    def __len__(self) -> int:
        return len(self._list)

    def __getitem__(self, i: int) -> Module:
        return self._list[i]

    def __iter__(self) -> Iterator[Module]:
        return iter(self._list)


class Sequential(ModuleList):
    """Modules run one after the other: `Sequential(Linear(2, 8), Linear(8, 1))(x)`."""

    def __init__(self, *modules: Module):
        super().__init__(modules)

    def forward(self, x: Any) -> Any:
        """The last module's output."""
        for module in self:
            x = module(x)
        return x
