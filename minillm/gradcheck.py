"""Are the gradients right? Backward against central differences, in float64.

For y = f(x_1, ..., x_n) with Jacobian J, a random v of y's shape and random directions u of the
inputs' shapes,

    <v, J u> = <v, f(x + eps u) - f(x - eps u)> / 2 eps + O(eps^2)    must equal    <J^T v, u>

where J^T v is what backward returns. Two evaluations check all elements of all inputs at once; a
few directions leave no room for luck. Then each input alone, so that none hides behind another.
(The check of HIPS autograd's `test_util.py`.)
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minillm.autograd import no_grad
from minillm.device import Array, xp_of
from minillm.errors import UserError
from minillm.ops.dtypes import is_floating
from minillm.tensor import Tensor, raw

_DIRECTIONS = 3


class GradcheckError(AssertionError):
    """A gradient differs from its numerical estimate."""


def gradcheck(
    fn: Callable[..., Any],
    *inputs: Any,
    eps: float = 1e-6,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    seed: int = 0,
    name: str | None = None,
) -> None:
    """Check the gradients of `fn` with respect to every floating input.

    Args:
        fn: takes `inputs` as Tensors, returns a Tensor or a tuple of them; must be deterministic,
            and smooth within `eps` of the inputs.
        inputs: float64 arrays or Tensors to differentiate, in any layout; integer and boolean
            ones, and anything else, are passed on as they are.
        eps: length of the step, per element.
        rtol: error allowed relative to the sum of the magnitudes of the terms compared.
        atol: error allowed relative to the magnitude of the output (or 1, if that is larger): the
            rounding of fn, divided by eps.
        seed: of the directions.
        name: what the message calls fn; None takes its own name.

    Raises:
        GradcheckError: naming fn, the input, the index, the analytic and the numeric derivative.
        UserError: a floating input is not float64, or there is none.
    """
    _Check(fn, inputs, eps, rtol, atol, name or getattr(fn, "__name__", repr(fn))).run(seed)


class _Check:
    def __init__(
        self, fn: Callable, inputs: tuple, eps: float, rtol: float, atol: float, name: str
    ):
        self.fn, self.inputs, self.name = fn, inputs, name
        self.eps, self.rtol, self.atol = eps, rtol, atol
        arrays = {i: raw(x) for i, x in enumerate(inputs) if hasattr(raw(x), "dtype")}
        self.x: dict[int, Array] = {i: a for i, a in arrays.items() if is_floating(a)}
        for i, array in self.x.items():
            if array.dtype != np.float64:
                raise UserError(
                    f"gradcheck {name}: input {i} is {array.dtype}; finite differences need float64"
                )
        if not self.x:
            raise UserError(f"gradcheck {name}: no floating input to differentiate")

    def run(self, seed: int) -> None:
        for s in range(seed, seed + _DIRECTIONS):
            rng = np.random.default_rng(s)
            v, grads = self.backward(rng)
            u = {i: self.draw(rng, x) for i, x in self.x.items()}
            for moved in [list(u), *([[i] for i in u] if len(u) > 1 else [])]:
                at = {i: u[i] for i in moved}
                analytic = sum(float((grads[i] * u[i]).sum()) for i in moved)
                terms = sum(float(abs(grads[i] * u[i]).sum()) for i in moved)
                numeric, size = self.difference(at, v)
                allowed = self.rtol * terms + self.atol * max(1.0, size)
                if not abs(analytic - numeric) <= allowed:
                    self.blame(moved, grads, v, analytic, numeric)

    def draw(self, rng: np.random.Generator, like: Array) -> Array:
        return xp_of(like).asarray(rng.standard_normal(like.shape))

    def call(self, x: dict[int, Any]) -> list[Tensor]:
        y = self.fn(*(x.get(i, given) for i, given in enumerate(self.inputs)))
        return list(y) if isinstance(y, tuple | list) else [y]

    def backward(self, rng: np.random.Generator) -> tuple[list[Array], dict[int, Array]]:
        """Random v, and J^T v as backward computes it, by input."""
        leaves = {i: Tensor(x, requires_grad=True) for i, x in self.x.items()}
        before = {i: x.copy() for i, x in self.x.items()}
        outputs = self.call(leaves)
        v = [self.draw(rng, y.data) for y in outputs]
        for y, w in zip(outputs, v):
            if y.requires_grad:
                given = w.copy()
                y.backward(given, retain_graph=True)
                if (given != w).any():
                    raise GradcheckError(
                        f"{self.name}: backward wrote into the gradient it was given"
                    )
        for i, x in self.x.items():
            if ((x != before[i]) & (x == x)).any():
                raise GradcheckError(f"{self.name}: input {i} was written into")
        grads = {
            i: xp_of(x).zeros_like(x) if leaves[i].grad is None else leaves[i].grad.data
            for i, x in self.x.items()
        }
        return v, grads

    def difference(self, u: dict[int, Array], v: list[Array]) -> tuple[float, float]:
        """<v, J u> by central difference, and the magnitude of what was subtracted."""
        with no_grad():
            up, down = (
                self.call({i: Tensor(x + e * u[i] if i in u else x) for i, x in self.x.items()})
                for e in (self.eps, -self.eps)
            )
        change = sum(float((w * (a.data - b.data)).sum()) for w, a, b in zip(v, up, down))
        size = sum(float(abs(w * a.data).sum()) for w, a in zip(v, up))
        return change / (2 * self.eps), size

    def blame(
        self, moved: list[int], grads: dict, v: list[Array], analytic: float, numeric: float
    ) -> None:
        """Raise, naming the element whose derivative is furthest off."""
        worst, message = 0.0, f"along a random direction of inputs {moved}"
        for i in moved:
            for index in np.ndindex(self.x[i].shape):
                unit = xp_of(self.x[i]).zeros(self.x[i].shape)
                unit[index] = 1
                got = float(grads[i][index])
                want, _ = self.difference({i: unit}, v)
                error = abs(got - want) if got - want == got - want else float("inf")
                if error > worst:
                    worst, analytic, numeric = error, got, want
                    message = f"of input {i} at index {index}"
        raise GradcheckError(
            f"{self.name}: derivative {message}: analytic {analytic:.9g}, numeric {numeric:.9g}"
        )
