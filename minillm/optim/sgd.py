"""Stochastic gradient descent with momentum."""

from collections.abc import Iterable, Mapping
from typing import Any

from minillm.errors import UserError
from minillm.optim.optimizer import Optimizer, Shard, fraction
from minillm.tensor import Tensor


class SGD(Optimizer):
    """Gradient descent, by default without momentum, as `torch.optim.SGD`.

        g = grad + weight_decay p
        m = momentum m + g                                   (Polyak 1964)
        p = p - lr m,  or  p - lr (g + momentum m)           nesterov (Sutskever et al. 2013)

    Args:
        params, lr, weight_decay: as Optimizer takes them; the decay is part of the gradient (L2).
        momentum: in [0, 1).
        nesterov: look ahead by one step of momentum, which must then be above 0.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        fraction(momentum=momentum)
        if nesterov and momentum == 0:
            raise UserError("nesterov needs a momentum above 0")
        self.momentum, self.nesterov = momentum, nesterov
        super().__init__(params, lr, weight_decay, ("momentum",) if momentum else ())

    def _update(self, shard: Shard, grad_scale: float, lr: float, weight_decay: float) -> None:
        p = shard.data
        g = shard.grad * grad_scale  # our own array: the gradient itself stays as it is
        if weight_decay:
            g += weight_decay * p
        if self.momentum:
            m = shard.state["momentum"]
            m *= self.momentum
            m += g
            if self.nesterov:
                g += self.momentum * m
            else:
                g[...] = m
        g *= lr
        p -= g
