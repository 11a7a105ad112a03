"""Adam (Kingma & Ba 2015, arXiv 1412.6980) and AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101).

With the gradient g and t steps taken, this one included,

    m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
    p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

The two differ in weight decay. Adam adds weight_decay p to g (L2), where it is divided by sqrt(v)
like the rest; AdamW multiplies p by 1 - lr weight_decay instead, whatever the gradients.

A group is one call of the kernel `adamw`: one pass over p, g, m and v, clipping included.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from minillm.device import Array
from minillm.kernels.adamw import adamw
from minillm.optim.optimizer import Optimizer, Shard, fraction, non_negative
from minillm.tensor import Tensor


class Adam(Optimizer):
    """Adam, weight decay as part of the gradient, as `torch.optim.Adam`.

    Args:
        params, lr, weight_decay: as Optimizer takes them.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        fraction(beta1=betas[0], beta2=betas[1])
        non_negative(eps=eps)
        self.betas, self.eps = betas, eps
        super().__init__(params, lr, weight_decay, ("exp_avg", "exp_avg_sq"))

    def _update(self, shard: Shard, grad_scale: float, lr: float, weight_decay: float) -> None:
        grad = shard.grad
        if weight_decay:
            grad = grad * grad_scale + weight_decay * shard.data
            grad_scale = 1.0
        self._move(shard, grad, grad_scale, lr, 0.0)

    def _move(
        self, shard: Shard, grad: Array, grad_scale: float, lr: float, weight_decay: float
    ) -> None:
        p, (m, v) = shard.data, shard.state.values()
        adamw(p, grad, m, v, lr, *self.betas, self.eps, weight_decay, self.steps, grad_scale)


class AdamW(Adam):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`; arguments as Adam's."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, lr, betas, eps, weight_decay)

    def _update(self, shard: Shard, grad_scale: float, lr: float, weight_decay: float) -> None:
        self._move(shard, shard.grad, grad_scale, lr, weight_decay)
