"""One model on many ranks: matrices split between them, and layers one after the other.

    check(config, comm.size, dp, tp, pp, batch_size)     refuses what cannot be; needs no ranks
    grid = Grid(comm, dp=1, tp=2, pp=2)                  who this rank works with, axis by axis
    pipe = split_model(model, grid)                      the whole GPT, cut down to this rank's part

    for kind, i in pipe.schedule(len(micro_batches)):    the order that keeps all stages busy
        if kind == "forward":
            pipe.forward(i, *micro_batches[i], scale=1 / tokens)
        else:
            pipe.backward(i)
    pipe.sum_late()                                      tied embeddings: both ends' gradients
    loss = pipe.losses()

    whole(grid, pipe, arrays)              all ranks' arrays -> one model's, on rank 0
    part(pipe, arrays)                     and back: checkpoints know no grid

Data parallelism is left to the caller: it sums the gradients of `pipe.model` over `grid.dp`.

    grid.py         the three axes; what cannot be split
    splits.py       which dimension of which parameter is cut, and how
    tensor.py       tensor parallelism: inside every layer
    vocabulary.py   its two ends: the table of embeddings, the loss
    pipeline.py     pipeline parallelism: stages of layers, 1F1B
    state.py        checkpoints
"""

from minillm.parallel.grid import Grid, check
from minillm.parallel.pipeline import Pipeline, schedule, split_model
from minillm.parallel.state import part, whole

__all__ = ["Grid", "Pipeline", "check", "part", "schedule", "split_model", "whole"]
