"""The tape: nodes that remember an op's inputs, and the backward pass over them.

A Node is made for each op applied to something that requires a gradient. `backward` walks the
nodes in reverse order of dependency, without recursion, and hands each op the gradient of its
output. What comes in: ops (minillm.ops) and leaves: Tensors, but known here only as `Leaf`.

Saved arrays and links are dropped as the pass moves over them, so the memory of a graph shrinks
while gradients appear. Gradients that meet are added in place once the sum is the engine's own.
"""

import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Protocol

from minillm.device import Array, xp_of
from minillm.ops.op import Op


class Version:
    """How often an array was changed in place; shared by all tensors that view the same memory."""

    count = 0


def _owner(array: Array) -> Any:
    """What holds the memory that `array` looks at."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


def shared_version(result: Array, inputs: Sequence, arrays: Sequence) -> Version:
    """The version of an op's result: a view counts changes together with the Tensor it views.

    Args:
        inputs, arrays: what the op was given, and the same with arrays in the place of Tensors.
    """
    if result.base is None:
        for x, array in zip(inputs, arrays):
            if array is result and x is not array:
                return x.version
        return Version()
    owner = _owner(result)
    for x, array in zip(inputs, arrays):
        if x is not array and _owner(array) is owner:
            return x.version
    return Version()


Stamp = tuple[Version, int, int]  # a version, its count at some time, the memory it is of


def stamp(x: Any) -> Stamp:
    """The version of a Tensor as it is now."""
    array = x.data
    return x.version, x.version.count, id(array if array.base is None else _owner(array))


class Leaf(Protocol):
    """A tensor that collects its gradient."""

    dtype: Any
    hooks: "Sequence[Callable[[Array], Array | None]]"

    def accumulate_grad(self, grad: Array) -> None: ...

    def grad_is_complete(self) -> None: ...


class Node:
    """One applied op: its inputs' nodes or leaves, what backward needs, and its output's kind."""

    __slots__ = ("op", "edges", "saved", "stamps", "shape", "dtype", "order", "hooks")
    _order = count()

    def __init__(
        self,
        op: type[Op],
        edges: "Sequence[Node | Leaf | None]",
        saved: tuple,
        stamps: Sequence[Stamp | None],
        output: Array,
    ):
        self.op = op
        self.edges = edges
        self.saved: tuple | None = saved
        self.stamps = stamps  # of the inputs, None for what is no Tensor, and of the output
        self.shape, self.dtype = output.shape, output.dtype
        self.order = next(Node._order)
        self.hooks: Sequence[Callable[[Array], Array | None]] = ()

    def __repr__(self) -> str:
        return f"<{self.op.name} backward>"

    def check_saved(self) -> None:
        """Raise if the saved arrays are gone or were changed in place since they were saved."""
        if self.saved is None:
            raise RuntimeError(
                f"backward through {self.op.name} a second time: its saved arrays were freed by the"
                " first; pass retain_graph=True to the first backward, or run forward again"
            )
        for position, taken in enumerate(self.stamps):
            if taken is not None and taken[0].count != taken[1]:
                self._check_change(position, *taken)

    def _check_change(self, position: int, version: Version, count: int, memory: int) -> None:
        """Raise if the changed memory is some that was saved; then it lives, so its id holds."""
        if memory not in [id(_owner(a)) for a in self.saved or () if hasattr(a, "nbytes")]:
            return
        what = "output" if position == len(self.edges) else f"input {position}"
        raise RuntimeError(
            f"{self.op.name}: its {what} is needed for backward but was changed in place"
            f" (version {version.count}, saved at {count}); use an out-of-place op or clone() it"
            " first"
        )


def _count_consumers(root: Node) -> dict[Any, int]:
    """How many gradients each node and leaf reachable from `root` will receive."""
    consumers: dict[Any, int] = {root: 0}
    stack = [root]
    while stack:
        for edge in stack.pop().edges:
            if edge is None:
                continue
            if edge not in consumers:
                consumers[edge] = 0
                if isinstance(edge, Node):
                    stack.append(edge)
            consumers[edge] += 1
    return consumers


def backward(root: Node, grad: Array, retain_graph: bool = False) -> None:
    """Propagate `grad`, the gradient of `root`'s output, to every leaf that it depends on.

    Args:
        root: the node of the tensor to differentiate.
        grad: array of the shape of that tensor.
        retain_graph: keep saved arrays, so that backward can run through this graph again.

    Raises:
        RuntimeError: a part of the graph was freed, or an array saved in it was changed in place.
    """
    consumers = _count_consumers(root)
    pending: dict[Any, Array] = {root: grad}  # of nodes, and of leaves whose hooks await the sum
    owned: set[Any] = set()  # whose pending gradient is a sum made here: free to write into
    ready = [(-root.order, root)]  # latest op first: the reverse of how the forward ran
    while ready:
        _, node = heapq.heappop(ready)
        dout = pending.pop(node)
        owned.discard(node)
        for hook in node.hooks:
            changed = hook(dout)
            dout = dout if changed is None else changed
        node.check_saved()
        whole = node.edges[0]
        if node.op.scatter is not None and isinstance(whole, Node) and whole.shape:
            grads = (_scatter(pending, owned, node, dout),)
        else:
            saved = _copies(node.saved) if retain_graph and node.op.overwrites else node.saved
            grads = node.op.backward(dout, saved, [edge is not None for edge in node.edges])
            saved = None
        for observe in observers:
            observe("backward", node.op, dout, grads)
        edges = node.edges
        if not (retain_graph or node.op.lasting):
            node.saved, node.edges, node.stamps = None, (), ()
        for edge, g in zip(edges, grads):
            if edge is None:
                continue
            consumers[edge] -= 1
            if g is not None:
                if isinstance(edge, Node) or edge.hooks:
                    _add(pending, owned, edge, g)
                else:
                    edge.accumulate_grad(g)
            if consumers[edge]:
                continue
            if not isinstance(edge, Node):
                _complete(edge, pending)
            elif edge in pending:
                heapq.heappush(ready, (-edge.order, edge))
            else:
                _skip(edge, consumers, pending, ready)
        dout = grads = g = None  # or the last ones would live on while the next op runs


def _copies(saved: Sequence) -> tuple:
    return tuple(a.copy() if hasattr(a, "dtype") else a for a in saved)


def _add(pending: dict[Any, Array], owned: set[Any], node: Node | Leaf, grad: Array) -> None:
    if grad.dtype != node.dtype:
        grad = grad.astype(node.dtype)
    if node not in pending:
        pending[node] = grad
    elif node in owned:
        pending[node] += grad
    else:
        pending[node] = pending[node] + grad
        owned.add(node)


def _complete(leaf: Leaf, pending: dict[Any, Array]) -> None:
    """Nothing more comes for `leaf`: hand it the sum that its hooks waited for, and tell it."""
    if leaf in pending:
        leaf.accumulate_grad(pending.pop(leaf))
    leaf.grad_is_complete()


def _scatter(pending: dict[Any, Array], owned: set[Any], node: Node, dout: Array) -> None:
    """Add the gradient of a slice straight into its place in the pending gradient of the whole."""
    whole = node.edges[0]
    if whole not in pending:
        pending[whole] = xp_of(dout).zeros(whole.shape, whole.dtype)
    elif whole not in owned:
        pending[whole] = pending[whole].copy()
    owned.add(whole)
    node.op.scatter(pending[whole], dout, node.saved)


def _skip(node: Node, consumers: dict, pending: dict, ready: list) -> None:
    """`node` got no gradient at all: tell what it depends on not to wait for it."""
    stack = [node]
    while stack:
        for edge in stack.pop().edges:
            if edge is None:
                continue
            consumers[edge] -= 1
            if consumers[edge] == 0:
                if not isinstance(edge, Node):
                    _complete(edge, pending)
                elif edge in pending:
                    heapq.heappush(ready, (-edge.order, edge))
                else:
                    stack.append(edge)


# --- whether ops are recorded, and who watches them -------------------------------------------


class _Mode(threading.local):  # each thread its own: ranks may be threads
    enabled = True
    autocast: Any = None  # set by minillm.autocast, as is the next
    around: tuple = ()  # what `autocast` was outside each of the blocks that this thread is in


mode = _Mode()

# Called as observe(phase, op, inputs, outputs), phase "forward" or "backward": the one place from
# which profiling, anomaly detection and drawings of the graph look on.
observers: list[Callable[[str, type[Op], Any, Any], None]] = []


def is_grad_enabled() -> bool:
    """Whether ops are being recorded."""
    return mode.enabled


@contextmanager
def set_grad_enabled(enabled: bool) -> Iterator[None]:
    """Record ops, or not, inside a `with` block or a decorated function."""
    before, mode.enabled = mode.enabled, enabled
    try:
        yield
    finally:
        mode.enabled = before


def no_grad() -> Any:
    """Record nothing inside a `with` block or a decorated function."""
    return set_grad_enabled(False)


def enable_grad() -> Any:
    """Record again inside a `no_grad` block."""
    return set_grad_enabled(True)


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise FloatingPointError at the first op that returns NaN, forward or backward, naming it."""

    def observe(phase: str, op: type[Op], inputs: Any, outputs: Any) -> None:
        for i, array in enumerate(outputs):
            if array is not None and array.dtype.kind not in "biu" and (array != array).any():
                raise FloatingPointError(f"{op.name} {phase}: NaN in its result {i}")

    observers.append(observe)
    try:
        yield
    finally:
        observers.remove(observe)
