"""Tensor parallelism: every layer shared by p ranks (Megatron-LM: Shoeybi et al. 2019, arXiv
1909.08053, section 3).

    x -> norm -> copy -> rows of W1 -> attention by heads | gelu -> columns of W2 -> sum -> + bias

Rank r computes its rows of the first matrix, so its heads or its hidden channels; of the second it
has the columns that these meet: the product is a term of the sum over ranks,

    y = W2 f(W1 x) = sum_r W2[:, r] f(W1[r, :] x)

which one all-reduce makes whole. Two ops, each the other's adjoint, are all that ranks say:

    copy    forward y_r = x        backward dx = sum_r dy_r   (x feeds every rank's rows)
    sum     forward y = sum_r x_r  backward dx_r = dy         (each rank's term counts once)

`copy` stands right after each norm, once for all that it feeds. So norms, position embeddings,
biases of W2 and the residual stream, which every rank has whole, see the whole gradient; and, since
an all-reduce ends with the same bits everywhere, the same bits of it. Dropout acts on the residual
stream alone: ranks that seed it alike draw one mask.

The first matrix needs no class: a Linear that has some of the rows is one. The two ends, which are
split by words, are in vocabulary.py.

Cost: four all-reduces of B T C elements a block and micro-batch, two forward, two backward, none of
them hidden; under autocast those of the forward are of bfloat16 terms.
"""

from functools import partial
from typing import Any

from minillm import functional as F
from minillm.distributed import Communicator, all_reduce
from minillm.models.gpt import GPT
from minillm.nn import Module, Parameter
from minillm.ops.op import Op
from minillm.parallel.splits import cut, split_of
from minillm.parallel.vocabulary import VocabParallelEmbedding, vocab_parallel_cross_entropy
from minillm.tensor import Tensor, apply


def _summed(x: Any, comm: Communicator) -> Any:
    y = x.copy(order="C")
    all_reduce(comm, y.reshape(-1))
    return y


class CopyToRanks(Op):
    """y_r = x,  dx = sum_r dy_r."""

    @staticmethod
    def forward(x, *, comm):
        return x, (comm,)

    @staticmethod
    def backward(dy, saved, needs):
        return (_summed(dy, *saved),)


class SumOverRanks(Op):
    """y = sum_r x_r,  dx_r = dy."""

    @staticmethod
    def forward(x, *, comm):
        return _summed(x, comm), ()

    @staticmethod
    def backward(dy, saved, needs):
        return (dy,)


class RowParallelLinear(Module):
    """y = sum_r x_r weight_r^T + bias: `(..., in / p) -> (..., out)`, the same on all ranks.

    Attributes:
        weight: (out, in / p), the columns of this rank.
        bias: (out,), added once, after the sum; None without.
    """

    def __init__(self, weight: Parameter, bias: Parameter | None, comm: Communicator):
        self.weight, self.bias, self.comm = weight, bias, comm

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in / p) -> (..., out)."""
        y = apply(SumOverRanks, F.linear(x, self.weight), comm=self.comm)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Sizes, and whether there is a bias."""
        out_features, in_features = self.weight.shape
        return f"{in_features} a rank, {out_features}, bias={self.bias is not None}"


def split_layers(model: GPT, comm: Communicator) -> None:
    """Cut a GPT, or a stage of one, in place to the share of this rank of `comm`."""
    config = model.config
    for name, p in model.named_parameters():
        split = split_of(name, config)
        if split is not None:
            p.data = cut(p.data, split, comm.rank, comm.size)
    norms = [model.norm] if model.norm is not None else []
    for block in model.blocks:
        attention, mlp = block.attention, block.mlp
        attention.n_head //= comm.size
        attention.n_kv_head //= comm.size
        for layer in (attention, mlp):
            layer.proj = RowParallelLinear(layer.proj.weight, layer.proj.bias, comm)
        norms += [block.attention_norm, block.mlp_norm]
    for norm in norms:
        norm.register_forward_hook(lambda _, args, y: apply(CopyToRanks, y, comm=comm))
    V = config.vocab_size
    if model.token_embedding is not None:
        model.token_embedding = VocabParallelEmbedding(model.token_embedding.weight, V, comm)
    model.cross_entropy = partial(vocab_parallel_cross_entropy, vocab_size=V, comm=comm)
