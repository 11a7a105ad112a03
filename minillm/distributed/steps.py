"""Collectives as generators of requests, so that the same code runs blocking or overlapped.

A collective posts its messages and does `yield request` wherever it needs one to be done. Whoever
drives it decides what happens meanwhile: `run` waits; `Progress` goes back to the backward pass and
looks in again at its next gradient. There are no threads: waiting MPI threads would take the cores
from the computation, and Python's lock would take turns.
"""

from collections.abc import Callable, Generator
from functools import update_wrapper
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from minillm.errors import UserError

if TYPE_CHECKING:
    from minillm.distributed.comm import Request

T = TypeVar("T")
Steps = Generator["Request", None, T]


def run(steps: Steps[T]) -> T:
    """Drive a collective to its end, waiting for each request; what it returns."""
    while True:
        try:
            request = next(steps)
        except StopIteration as end:
            return end.value
        request.wait()


class Collective(Generic[T]):
    """A generator of requests that, called, runs to its end; `.steps(...)` is the generator.

    Both note the collective in the rank's flight recorder (flight.py), the first argument's, and
    refuse a tag that is under way: each collective would take the other's messages. Its first
    parameters are the communicator and, if any, the array; the tag is the one called "tag". Without
    one, as the barrier, it has tags of its own.
    """

    def __init__(self, steps: Callable[..., Steps[T]]):
        self._steps = steps
        code = steps.__code__
        names = code.co_varnames[1 : code.co_argcount]
        self._tagged = "tag" in names
        self._tag_at = names.index("tag") if self._tagged else len(names)
        update_wrapper(self, steps)

    def __get__(self, comm: Any, kind: Any = None) -> Callable[..., T]:
        return self if comm is None else MethodType(self, comm)

    def __call__(self, comm: Any, *args: Any, **kwargs: Any) -> T:
        return run(self._noted(comm, args, kwargs, True))

    def steps(self, comm: Any, *args: Any, **kwargs: Any) -> Steps[T]:
        """The requests that it waits for, one after another; it begins at the first `next`."""
        return self._noted(comm, args, kwargs, False)

    def within(self, comm: Any, *args: Any, **kwargs: Any) -> Steps[T]:
        """The requests, as part of another collective: that one is noted, and it has the tag."""
        return self._steps(comm, *args, **kwargs)

    def _noted(self, comm: Any, args: tuple, kwargs: dict[str, Any], blocking: bool) -> Steps[T]:
        array = args[0] if args else kwargs.get("array")
        tag = args[self._tag_at] if len(args) > self._tag_at else kwargs.get("tag", 0)
        if not 0 <= tag < comm.tags:  # those are the barrier's, and of other groups of ranks
            raise UserError(
                f"{self.__name__} with tag {tag}: only {comm.tags} sums of a step are kept apart:"
                " make fewer and larger ones (--sync bucketed, a larger --bucket_mb)"
            )
        taken = tag if self._tagged else self.__name__
        if taken in comm.tags_taken:
            raise UserError(
                f"{self.__name__} with tag {taken}, which a collective under way uses: each"
                " would take the other's messages; wait for that one, or take another tag"
            )
        flight = comm.flight
        call = flight.begin(comm, self.__name__, array, tag, blocking)
        comm.tags_taken.add(taken)
        try:
            result = yield from self._steps(comm, *args, **kwargs)
        except (UserError, GeneratorExit):  # any other error ends the run: it stays under way
            flight.end(call)
            raise
        finally:
            comm.tags_taken.discard(taken)
        flight.end(call)
        return result


class Progress:
    """Collectives under way, moved on whenever there is time.

    All ranks must start them in the same order, each with a tag of its own.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Steps[Any], Any]] = []  # with the request it waits for

    def start(self, steps: Steps[Any]) -> None:
        """Begin a collective; it stays under way until poll or wait has seen its end."""
        request = next(steps, None)
        if request is not None:
            self._pending.append((steps, request))

    def poll(self) -> None:
        """Move each collective on as far as it goes without waiting."""
        still = []
        for steps, request in self._pending:
            waits_for: Any = request
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
