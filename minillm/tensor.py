"""Tensor: an array, its gradient, and the node that made it.

`apply` is the one door between Tensors and ops: it unwraps arrays, runs the op's forward, and
records a Node when something requires a gradient. Operators and methods that are ops (`+`, `sum`,
`reshape`, ...) are in tensor_methods.py, changes in place in tensor_inplace.py.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from minillm import autograd, env
from minillm.autograd import Node, Version, stamp
from minillm.device import Array, device_of, module, to_device, xp_of
from minillm.errors import UserError
from minillm.ops import arithmetic
from minillm.ops.dtypes import DEFAULT_DTYPE, find_dtype
from minillm.ops.op import Op, check_devices, raw
from minillm.tensor_inplace import InPlace
from minillm.tensor_methods import TensorMethods


class Tensor(TensorMethods, InPlace):
    """An n-dimensional array that can be differentiated.

    Args:
        data: array (kept, not copied), Tensor, number or nested list; Python floats become float32.
        requires_grad: collect a gradient in `.grad`; floating dtypes only.
        device: "cpu" or "cuda"; None keeps the array where it is.
        dtype: convert to this dtype; None keeps the array's.
    """

    __slots__ = ("data", "grad", "node", "version", "grad_buffer", "_requires_grad", "hooks",
                 "_post_hooks", "__weakref__")  # fmt: skip
    __array_ufunc__ = None  # so that array + tensor comes to Tensor.__radd__
    __hash__ = object.__hash__

    def __init__(
        self,
        data: Any,
        requires_grad: bool = False,
        device: str | None = None,
        dtype: Any = None,
    ):
        given = data
        data = raw(data)
        if not hasattr(data, "__array__") and not hasattr(data, "__cuda_array_interface__"):
            data = np.asarray(data)
            if data.dtype == np.float64 and dtype is None:
                data = data.astype(DEFAULT_DTYPE)
        data = xp_of(data).asarray(data, dtype=None if dtype is None else find_dtype(dtype))
        if data.dtype.kind in "OSU":
            raise UserError(f"a Tensor holds numbers, not {type(given).__name__} of {data.dtype}")
        self.data: Array = data if device is None else to_device(data, device)
        self.grad: Tensor | None = None
        self.node: Node | None = None
        same = isinstance(given, Tensor) and given.data is self.data
        self.version = given.version if same else Version()
        self.grad_buffer: Array | None = None  # where .grad lives when parameters are flattened
        self.hooks: Sequence[Callable] = ()
        self._post_hooks: Sequence[Callable] = ()
        self._requires_grad = False
        self.requires_grad = requires_grad

    # --- what it is -----------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def device(self) -> str:
        return device_of(self.data)

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad or self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and self.data.dtype.kind in "biu":
            raise RuntimeError(
                f"only floating-point tensors can require a gradient, not {self.dtype}"
            )
        if not value and self.node is not None:
            raise RuntimeError("this tensor was computed; detach() gives one without its history")
        self._requires_grad = bool(value) and self.node is None

    @property
    def is_leaf(self) -> bool:
        """True if the user made it, False if an op did."""
        return self.node is None

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __repr__(self) -> str:
        body = np.array2string(to_device(self.data, "cpu"), separator=", ", prefix="tensor(")
        usual = self.dtype == DEFAULT_DTYPE or self.dtype.kind in "bi"
        extra = "" if usual else f", dtype={self.dtype}"
        if self.device != "cpu":
            extra += f", device='{self.device}'"
        if self.node is not None:
            extra += f", grad_fn={self.node!r}"
        elif self._requires_grad:
            extra += ", requires_grad=True"
        return f"tensor({body}{extra})"

    def item(self) -> Any:
        """The only element, as a Python number."""
        return self.data.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self.data.tolist()

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array, which shares memory on the CPU. Detach a result first."""
        if self.requires_grad:
            raise RuntimeError("this tensor requires a gradient; use .detach().numpy()")
        return to_device(self.data, "cpu")

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data.item())

    def __int__(self) -> int:
        return int(self.data.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.asarray(self.numpy(), dtype)
        return array.copy() if copy else array

    # --- gradients ------------------------------------------------------------------------------

    def backward(
        self, gradient: "Tensor | Array | None" = None, retain_graph: bool = False
    ) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf it depends on.

        Args:
            gradient: gradient of what this tensor feeds, of its shape; None stands for 1 and needs
                a tensor of one element.
            retain_graph: keep the graph for another backward.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward: this tensor does not depend on any that requires a gradient"
            )
        if gradient is None:
            if self.data.size != 1:
                raise RuntimeError(f"backward of shape {self.shape} needs a gradient of that shape")
            grad = xp_of(self.data).ones_like(self.data)
        else:
            grad = xp_of(self.data).asarray(raw(gradient), dtype=self.dtype)
            if grad.shape != self.shape:
                raise RuntimeError(
                    f"gradient of shape {grad.shape} for tensor of shape {self.shape}"
                )
        if self.node is None:
            self.accumulate_grad(grad)
            self.grad_is_complete()
        else:
            autograd.backward(self.node, grad, retain_graph)

    def accumulate_grad(self, grad: Array) -> None:
        """Add `grad` to `.grad`: in place, and into `grad_buffer` where there is one."""
        if grad.shape != self.shape:
            raise RuntimeError(f"gradient of shape {grad.shape} for tensor of shape {self.shape}")
        for hook in self.hooks:
            changed = hook(grad)
            grad = grad if changed is None else changed
        if self.grad is not None:
            self.grad.data += grad
        elif self.grad_buffer is not None:
            self.grad_buffer[...] = grad
            self.grad = Tensor(self.grad_buffer)
        else:
            self.grad = Tensor(xp_of(self.data).array(grad, dtype=self.dtype))  # a copy of our own

    def grad_is_complete(self) -> None:
        """Called by backward once nothing more will be added to `.grad` in this pass."""
        for hook in self._post_hooks:
            hook(self)

    def register_hook(self, hook: Callable[[Array], Array | None]) -> Callable[[], None]:
        """Call `hook(grad)` once a backward pass, with the sum of all that reaches this tensor;
        what it returns, if anything, replaces it. Returns a function that removes the hook."""
        return add_hook(self if self.node is None else self.node, "hooks", hook)

    def register_post_accumulate_grad_hook(
        self, hook: Callable[["Tensor"], None]
    ) -> Callable[[], None]:
        """Call `hook(self)` when a backward pass has added the last of this leaf's gradient.
        Returns a function that removes the hook."""
        return add_hook(self, "_post_hooks", hook)

    def detach(self) -> "Tensor":
        """The same memory without the history."""
        return Tensor(self)

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Set `requires_grad`; returns self."""
        self.requires_grad = requires_grad
        return self

    def apply(self, op: type[Op], *inputs: Any, **params: Any) -> "Tensor":
        """`apply(op, self, *inputs, **params)`, for methods."""
        return apply(op, self, *inputs, **params)

    def apply_last(self, op: type[Op], *inputs: Any) -> "Tensor":
        """`apply(op, *inputs, self)`, for reflected operators."""
        return apply(op, *inputs, self)

    def to(self, target: Any) -> "Tensor":
        """This tensor on another device (`"cpu"`, `"cuda"`) or in another dtype. Differentiable in
        the dtype; a move to another device makes a new leaf."""
        if isinstance(target, str) and target in ("cpu", "cuda"):
            module(target)
            return self if target == self.device else Tensor(to_device(self.data, target))
        dtype = find_dtype(target)
        return self if self.dtype == dtype else self.apply(arithmetic.Cast, dtype=dtype)


def add_hook(owner: Any, name: str, hook: Callable) -> Callable[[], None]:
    """Append to a tuple of hooks, usually empty; returns what takes this one registration back."""
    entry = partial(hook)
    setattr(owner, name, (*getattr(owner, name), entry))

    def remove() -> None:
        setattr(owner, name, tuple(h for h in getattr(owner, name) if h is not entry))

    return remove


def apply(op: type[Op], *inputs: Any, **params: Any) -> Tensor:
    """Run `op` on Tensors, arrays or numbers, and record it if an input requires a gradient.

    Args:
        op: the op; gets arrays for `inputs` and `params` as they are.
    """
    if autograd.mode.autocast is not None:
        inputs = autograd.mode.autocast.cast(op, inputs, apply)
    arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
    try:
        result, saved = op.forward(*arrays, **params)
    except Exception:
        check_devices(op.name, arrays)
        raise
    if isinstance(result, np.generic):
        result = np.asarray(result)
    out: Tensor = Tensor.__new__(Tensor)  # skips __init__: this runs ~300 times a training step
    out.data = result
    out.grad = out.node = out.grad_buffer = None
    out._requires_grad, out.hooks, out._post_hooks = False, (), ()
    out.version = autograd.shared_version(result, inputs, arrays)
    if env.DEBUG >= 3:
        shapes = ", ".join(str(getattr(a, "shape", a)) for a in arrays)
        env.debug(3, f"op {op.name}({shapes}) -> {out.shape}")
    for observe in autograd.observers:
        observe("forward", op, arrays, (result,))
    if autograd.mode.enabled and op.backward is not None:
        edges: list = []
        needed = False
        for x in inputs:
            edge = None
            if isinstance(x, Tensor):
                edge = x if x._requires_grad else x.node
                needed = needed or edge is not None
            edges.append(edge)
        if needed and result.dtype.kind not in "biu":
            stamps = [stamp(x) if isinstance(x, Tensor) else None for x in inputs]
            stamps.append(stamp(out))
            out.node = Node(op, edges, saved, stamps, result)
    return out
