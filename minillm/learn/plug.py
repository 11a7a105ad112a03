"""A learner's functions in the engine: each Plug of a chapter takes the place of ours, and counts.

A kernel's place is an implementation called "yours", chosen for that kernel alone: `CHECK=1` and
`DEBUG=1` treat it like any other. Other places are attributes, set for as long as the block lasts.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from minillm import kernels
from minillm.errors import UserError
from minillm.kernels import registry
from minillm.learn.chapters import Chapter
from minillm.learn.exercise import Plug


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable, plug: Plug):
        self.function, self.plug, self.calls = function, plug, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A method, where it is an attribute of a class."""
        return self if instance is None else lambda *args, **kwargs: self(instance, *args, **kwargs)


@contextmanager
def plugged(of: Chapter, work: ModuleType) -> Iterator[list[Counted]]:
    """Inside, the engine uses the functions of `work`; the list says how often each was called.

    Raises:
        UserError: the chapter has nothing that goes into the engine, or the file lacks a function.
    """
    if not of.plugs:
        raise UserError(f"{of.name} builds nothing that training uses")
    used = []
    with ExitStack() as stack:
        for plug in of.plugs:
            function = getattr(work, plug.function, None)
            if function is None:
                raise UserError(f"{of.name}: the work file has no function {plug.function!r}")
            used.append(Counted(plug.adapt(function) if plug.adapt else function, plug))
            stack.enter_context(_in_place(plug.place, used[-1]))
        yield used


@contextmanager
def _in_place(place: str, function: Counted) -> Iterator[None]:
    if place.startswith("kernel "):
        name = place.removeprefix("kernel ")
        kernel = registry.declared()[name]
        kernel.added["yours"] = function
        try:
            with kernels.use(f"{name}=yours"):
                yield
        finally:
            del kernel.added["yours"]
        return
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    target = importlib.import_module(module)
    for owner in owners:
        target = getattr(target, owner)
    before = vars(target)[name]
    setattr(target, name, function)
    try:
        yield
    finally:
        setattr(target, name, before)
