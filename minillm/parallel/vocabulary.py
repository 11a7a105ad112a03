"""The two ends of a tensor-parallel model: rank r of p has words [r V // p, (r + 1) V // p).

Embedding. Each rank looks up the ids that are its own, and a sum over ranks brings them together:
one all-reduce of (N, C). Backward needs none: a row's gradient belongs where the row is.

Cross-entropy. Each rank has the logits of its words, and they stay there: (N, V) would be the
largest message of all. With a row's x_c split over ranks, t its target, and

    m_r = max over rank r of x_c          m = max_r m_r
    s = sum_r e^(m_r - m) sum over rank r of e^(x_c - m_r)
    z = x_t - m, where it is, else 0

    loss = log s - z,    dx_c = g (e^(x_c - m) / s - [c = t])

two all-reduces are enough: of m (N elements), then of s and z (2 N). Both ends need one pass of
exponentials. The gradient takes the memory of the logits, in blocks that fit a cache; losses and
sums are in at least float32. (Shoeybi et al. 2019, arXiv 1909.08053, section 3.)
"""

from collections.abc import Iterator
from typing import Any

from minillm.autograd import is_grad_enabled
from minillm.device import Array, xp_of
from minillm.distributed import Communicator, all_reduce
from minillm.distributed.spans import span
from minillm.errors import UserError
from minillm.kernels.cross_entropy import check_targets
from minillm.kernels.embedding import check_ids, embedding_backward
from minillm.nn import Module, Parameter
from minillm.ops.losses import check_reduction, over
from minillm.ops.op import Op
from minillm.tensor import Tensor, apply

BLOCK = 1 << 18  # logits that are worked on at once: 1 MB of float32


def _mine(ids: Array, counted: Array | None, width: int, V: int, comm: Communicator) -> tuple:
    """Where the flat `ids` (N,) are words of this rank, which has `width` of them, and which."""
    local = ids - span(V, comm.rank, comm.size).start
    mine = (local >= 0) & (local < width)
    where = xp_of(ids).nonzero(mine if counted is None else mine & counted)[0]
    return where, local[where]


# --- the table ------------------------------------------------------------------------------------


class VocabParallelLookup(Op):
    """y_n = weight[ids_n], wherever that row is;  dweight_v = sum of dy_n over ids_n = v."""

    @staticmethod
    def forward(ids, weight, *, vocab_size, comm):
        flat = ids.reshape(-1).astype("int64", copy=False)  # (N,)
        check_ids(flat, vocab_size)
        where, local = _mine(flat, None, len(weight), vocab_size, comm)
        y = xp_of(weight).zeros((flat.size, weight.shape[1]), weight.dtype)
        y[where] = weight[local]
        all_reduce(comm, y.reshape(-1))
        return y.reshape(*ids.shape, weight.shape[1]), (where, local, len(weight))

    @staticmethod
    def backward(dy, saved, needs):
        where, local, width = saved
        return None, embedding_backward(dy.reshape(-1, dy.shape[-1])[where], local, width)


class VocabParallelEmbedding(Module):
    """Some rows of a table: `ids (...) -> (..., C)`, the same on all ranks.

    Attributes:
        weight: (V / p, C), those of this rank's words.
    """

    def __init__(self, weight: Parameter, vocab_size: int, comm: Communicator):
        self.weight, self.vocab_size, self.comm = weight, vocab_size, comm

    def forward(self, ids: Any) -> Tensor:
        """ids (...), integers in [0, V) -> (..., C)."""
        return apply(
            VocabParallelLookup, ids, self.weight, vocab_size=self.vocab_size, comm=self.comm
        )

    def extra_repr(self) -> str:
        """Rows here and in all, columns."""
        rows, columns = self.weight.shape
        return f"{rows} of {self.vocab_size}, {columns}"


# --- the loss -------------------------------------------------------------------------------------


class VocabParallelCrossEntropy(Op):
    """loss_n = -log softmax(x_n)_t, reduced, of logits whose columns are on many ranks."""

    overwrites = True

    @staticmethod
    def forward(x, targets, *, vocab_size, comm, ignore_index, reduction, inplace):
        check_reduction("vocab_parallel_cross_entropy", reduction)
        xp, (N, width), shape = xp_of(x), x.shape, targets.shape
        targets = targets.reshape(-1).astype("int64", copy=False)  # (N,)
        check_targets(targets, vocab_size, ignore_index)
        wide = x.dtype if x.dtype.itemsize >= 4 else "float32"
        counted = targets != ignore_index
        rows, columns = _mine(targets, counted, width, vocab_size, comm)
        hit = x[rows, columns].astype(wide)  # x_t of those that are here

        highest, s = xp.empty(N, wide), xp.empty(N, wide)
        for n in _blocks(N, width):
            block = x[n].astype(wide, copy=False)
            highest[n] = block.max(1)
            e = xp.exp(block - highest[n, None])
            s[n] = e.sum(1)
            if inplace:
                x[n] = e
        m = highest.copy()
        all_reduce(comm, m, "max")
        scale = xp.exp(highest - m)
        both = xp.zeros((2, N), wide)
        both[0], both[1, rows] = s * scale, hit - m[rows]
        all_reduce(comm, both.reshape(-1))
        s, z = both
        losses = xp.where(counted, xp.log(s) - z, 0)  # (N,)
        if inplace:
            scale = xp.where(counted, scale / s, 0)
            for n in _blocks(N, width):
                x[n] = x[n].astype(wide, copy=False) * scale[n, None]
            x[rows, columns] = xp.exp(hit - m[rows]) / s[rows] - 1
        count = counted.sum()
        saved = (x if inplace else None, count, reduction)
        if reduction == "none":
            return losses.reshape(shape), saved
        return over(losses.sum(), count) if reduction == "mean" else losses.sum(), saved

    @staticmethod
    def backward(dy, saved, needs):
        dx, count, reduction = saved
        if reduction == "mean":
            dy = dy / xp_of(dy).maximum(count, 1).astype(dy.dtype)
        dx *= dy.reshape(-1, 1) if reduction == "none" else dy
        return dx, None


def _blocks(N: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK // width)
    return (slice(n, n + step) for n in range(0, N, step))


def vocab_parallel_cross_entropy(
    input: Tensor,
    target: Tensor | Array,
    vocab_size: int,
    comm: Communicator,
    ignore_index: int = -100,
    reduction: str = "mean",
    inplace: bool = False,
) -> Tensor:
    """Cross-entropy of logits whose columns are split over `comm`: the same on all its ranks.

    Args:
        input: (N, width), the logits of this rank's words.
        target: (N,), classes in [0, V) or `ignore_index`, the same on all ranks.
        vocab_size: V.
        ignore_index: targets of this value count for nothing.
        reduction: "mean" over the targets that count (NaN if there are none), "sum" or "none".
        inplace: the gradient, where one is wanted, takes the memory of `input`; else of a copy.

    Raises:
        UserError: a target that is no class; a number of columns that is not this rank's share.
        RuntimeError: inplace on a leaf.
    """
    mine = span(vocab_size, comm.rank, comm.size)
    if input.ndim != 2 or input.shape[1] != mine.stop - mine.start:
        raise UserError(
            f"vocab_parallel_cross_entropy: logits {input.shape} are not the share of rank"
            f" {comm.rank} of {comm.size} in a vocabulary of {vocab_size}"
        )
    with_grad = is_grad_enabled() and input.requires_grad
    if with_grad and not inplace:
        input = input.clone()
    if with_grad:
        if input.is_leaf:
            raise RuntimeError("vocab_parallel_cross_entropy(inplace=True) would overwrite a leaf")
        input.version.count += 1
    return apply(
        VocabParallelCrossEntropy, input, target, vocab_size=vocab_size, comm=comm,
        ignore_index=ignore_index, reduction=reduction, inplace=with_grad,
    )  # fmt: skip
