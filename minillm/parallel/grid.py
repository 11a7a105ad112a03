"""The grid of ranks: dp copies of the model, each on tp * pp ranks.

    rank = (stage * dp + d) * tp + t

Tensor-parallel ranks, which talk in every layer, are neighbours; then come the copies, which sum
their gradients once a step; the stages of the pipeline, which talk least, are furthest apart
(Narayanan et al. 2021, arXiv 2104.04473, section 3). Eight ranks with dp = tp = pp = 2:

              stage 0        stage 1
    copy 0    rank 0 1       rank 4 5      model: 0 1 4 5
    copy 1    rank 2 3       rank 6 7      model: 2 3 6 7
"""

from minillm.distributed import Communicator, SingleProcess, split
from minillm.errors import UserError
from minillm.models.gpt import GPTConfig


class Grid:
    """The ranks that this one works with, on each axis.

    A collective of all ranks of `comm`. An axis of length 1 is a SingleProcess.

    Args:
        dp, tp, pp: lengths of the axes; dp = 0 stands for what the others leave.

    Attributes:
        comm: all ranks.
        dp, tp, pp: the rows of the grid that this rank is on: those that have the same part of the
            model, the same layers of the same copy, the same share of each layer of the same copy.
        model: the tp * pp ranks that hold this copy of the model; its rank is stage * tp + t.

    Raises:
        UserError: dp * tp * pp is not the number of ranks.
    """

    def __init__(self, comm: Communicator, dp: int, tp: int, pp: int):
        dp = copies(comm.size, dp, tp, pp)
        rest, t = divmod(comm.rank, tp)
        stage, d = divmod(rest, dp)

        def row(length: int, color: int) -> Communicator:
            if length == comm.size:
                return comm
            return split(comm, color) if length > 1 else SingleProcess()

        self.comm = comm
        self.dp = row(dp, stage * tp + t)
        self.tp = row(tp, stage * dp + d)
        self.pp = row(pp, d * tp + t)
        self.model = row(tp * pp, d)


def copies(ranks: int, dp: int, tp: int, pp: int) -> int:
    """How many copies of the model there are: dp, or, if that is 0, what tp and pp leave.

    Raises:
        UserError: they do not multiply to `ranks`.
    """
    if min(dp, tp - 1, pp - 1) < 0:
        raise UserError(f"dp {dp}, tp {tp}, pp {pp}: each must be at least 1, or dp 0 for the rest")
    if dp == 0 and ranks % (tp * pp):
        raise UserError(
            f"tp {tp} x pp {pp} = {tp * pp} does not divide the {ranks} ranks: start a multiple of"
            f" {tp * pp}"
        )
    dp = dp or ranks // (tp * pp)
    if dp * tp * pp != ranks:
        raise UserError(
            f"dp {dp} x tp {tp} x pp {pp} = {dp * tp * pp}, but there are {ranks} ranks: start"
            f" {dp * tp * pp}, or leave dp out"
        )
    return dp


def check(config: GPTConfig, ranks: int, dp: int, tp: int, pp: int, batch_size: int) -> None:
    """Refuse a grid that does not fit the ranks, the model or the batch.

    Raises:
        UserError: why, in one line.
    """
    dp = copies(ranks, dp, tp, pp)
    if config.n_head % tp or config.kv_heads % tp:
        raise UserError(
            f"tp {tp} does not divide {config.n_head} heads"
            + (f" and {config.kv_heads} key/value heads" * (config.kv_heads != config.n_head))
            + ": attention is split by heads"
        )
    if tp > min(config.vocab_size, config.mlp_size):
        raise UserError(
            f"tp {tp} is more ranks than the vocabulary of {config.vocab_size} or the MLP's width"
            f" of {config.mlp_size} can be split over"
        )
    if pp > config.n_layer:
        raise UserError(f"pp {pp} is more stages than the {config.n_layer} layers")
    if dp > batch_size:
        raise UserError(
            f"batch_size {batch_size} over {dp} copies of the model leaves some without a sample:"
            " raise it, or start fewer ranks"
        )
