"""Cross-entropy of rows of logits against integer targets, with its gradient in the same pass.

With p the softmax of a row x, t its target, a the label smoothing and V the number of classes
(Szegedy et al. 2015, arXiv 1512.00567, section 7, as in PyTorch):

    loss = -(1 - a) log p_t - a mean_c(log p_c)
         = log sum_c e^(x_c - m) + (1 - a) (m - x_t) + a mean_c(m - x_c),   m = max_c x_c
    dx_c = p_c - (1 - a) [c = t] - a / V

Rows whose target is `ignore_index` have loss 0 and gradient 0. Losses are in at least float32.
The caller scales and sums; rows are independent. Forward and backward together need one
exponential an element and read the logits, the largest array of a training step, once. With
`inplace` the gradient overwrites the logits, and is returned as the same array.
"""

from minillm.device import Array
from minillm.errors import UserError
from minillm.kernels.registry import Cost, Kernel


def check_targets(targets: Array, V: int, ignore_index: int) -> None:
    """Refuse a target that names no class, which a compiled kernel would use as an address.

    Raises:
        UserError: a target that is neither in [0, V) nor `ignore_index`.
    """
    unsigned = targets.astype("int64", copy=False).view("uint64")  # in which -1 is huge
    wrong = (unsigned >= V) & (targets != ignore_index)
    if wrong.any():  # the one moment in which a GPU is waited for
        n = int(wrong.argmax())
        raise UserError(
            f"cross_entropy: target {int(targets[n])} (row {n}) is outside [0, {V}), the classes of"
            f" the logits, and is not ignore_index={ignore_index}"
        )


def _inputs(rng, N, V, label_smoothing=0.0, ignored=0.0):
    targets = rng.integers(0, V, N)
    targets[rng.random(N) < ignored] = -100
    return rng.normal(0.0, 3.0, (N, V)), targets, -100, label_smoothing


def _backward_inputs(rng, N, V, label_smoothing=0.0, ignored=0.0, inplace=False):
    return *_inputs(rng, N, V, label_smoothing, ignored), inplace


_SHAPES = [
    dict(N=1, V=1),
    dict(N=3, V=5, ignored=1.0),
    dict(N=37, V=65, ignored=0.3),
    dict(N=130, V=257, label_smoothing=0.1, ignored=0.1),
    dict(N=3, V=4104, label_smoothing=0.1),  # a row for two warps or more
    dict(N=0, V=8),
]
_BENCH = [dict(N=768, V=65), dict(N=512, V=50257)]
_BENCH_GPU = [dict(N=8192, V=50304)]

cross_entropy_forward = Kernel(
    __name__,
    "cross_entropy_forward",
    "logits (N, V), targets (N,) int64, ignore_index, label_smoothing -> losses (N,)",
    inputs=_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda logits, *_: Cost(logits.nbytes, 4 * logits.size),
)

cross_entropy_forward_backward = Kernel(
    __name__,
    "cross_entropy_forward_backward",
    "logits (N, V), targets (N,) int64, ignore_index, label_smoothing, inplace"
    " -> losses (N,), dlogits (N, V)",
    inputs=_backward_inputs,
    shapes=[*_SHAPES, *(dict(shape, inplace=True) for shape in _SHAPES[1:-1])],
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda logits, *_: Cost(2 * logits.nbytes, 5 * logits.size),
    mutates=(0,),  # only with inplace: without it, tests see that the logits stay
)
