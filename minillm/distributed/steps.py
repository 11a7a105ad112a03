"""Collectives as generators of requests, so that the same code runs blocking or overlapped.

A collective posts its messages and does `yield request` wherever it needs one to be done. Whoever
drives it decides what happens meanwhile: `run` waits; `Progress` goes back to the backward pass and
looks in again at its next gradient. There are no threads: waiting MPI threads would take the cores
from the computation, and Python's lock would take turns.
"""

from collections.abc import Callable, Generator
from functools import update_wrapper
from typing import Any, Generic, TypeVar

from minillm.distributed.comm import Request

T = TypeVar("T")
Steps = Generator[Request, None, T]


def run(steps: Steps[T]) -> T:
    """Drive a collective to its end, waiting for each request; what it returns."""
    while True:
        try:
            request = next(steps)
        except StopIteration as end:
            return end.value
        request.wait()


class Collective(Generic[T]):
    """A generator of requests that, called, runs to its end; `.steps(...)` is the generator."""

    def __init__(self, steps: Callable[..., Steps[T]]):
        self.steps = steps
        update_wrapper(self, steps)

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        return run(self.steps(*args, **kwargs))


class Progress:
    """Collectives under way, moved on whenever there is time.

    All ranks must start them in the same order, each with a tag of its own.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Steps[Any], Request]] = []  # with the request it waits for

    def start(self, steps: Steps[Any]) -> None:
        """Begin a collective; it stays under way until poll or wait has seen its end."""
        request = next(steps, None)
        if request is not None:
            self._pending.append((steps, request))

    def poll(self) -> None:
        """Move each collective on as far as it goes without waiting."""
        still = []
        for steps, request in self._pending:
            waits_for: Request | None = request
            while waits_for is not None and waits_for.test():
                waits_for = next(steps, None)
            if waits_for is not None:
                still.append((steps, waits_for))
        self._pending = still

    def wait(self) -> None:
        """Move all on to their end. The oldest is waited for: it is so on every rank."""
        while self._pending:
            self._pending[0][1].wait()
            self.poll()
