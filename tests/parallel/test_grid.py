"""The grid: who is on which axis, in which order; and what it refuses."""

import pytest

from minillm.distributed import SingleProcess, run_threads
from minillm.errors import UserError
from minillm.models.gpt import GPTConfig
from minillm.parallel import Grid, check

CONFIG = GPTConfig(block_size=4, vocab_size=9, n_layer=3, n_head=4, n_kv_head=2, n_embd=8)


def test_ranks_are_counted_tensor_first_then_copies_then_stages():
    def work(comm):
        grid = Grid(comm, dp=2, tp=2, pp=2)
        axes = [grid.dp, grid.tp, grid.pp, grid.model]
        return [axis.rank for axis in axes], [axis.ranks for axis in axes]

    results = run_threads(8, work)
    for rank, (own, _) in enumerate(results):
        dp, tp, pp, model = own
        assert rank == (pp * 2 + dp) * 2 + tp and model == pp * 2 + tp
    assert results[5][1] == [[5, 7], [4, 5], [1, 5], [0, 1, 4, 5]]


def test_an_axis_of_one_is_alone_and_one_of_all_is_all():
    def work(comm):
        grid = Grid(comm, 0, 3, 1)
        assert grid.tp is comm and grid.model is comm and grid.comm is comm
        assert isinstance(grid.dp, SingleProcess) and isinstance(grid.pp, SingleProcess)
        assert Grid(comm, 0, 1, 1).dp is comm
        return comm.contexts

    assert run_threads(3, work) == [0] * 3  # no split was made


@pytest.mark.parametrize(
    "ranks, axes, words",
    [
        (4, (1, 2, 1), "dp 1 x tp 2 x pp 1 = 2, but there are 4 ranks"),
        (4, (0, 3, 1), "tp 3 x pp 1 = 3 does not divide the 4 ranks"),
        (1, (0, 2, 2), "tp 2 x pp 2 = 4 does not divide the 1 ranks"),
        (4, (0, 4, 1), "tp 4 does not divide 4 heads and 2 key/value heads"),
        (3, (1, 3, 1), "tp 3 does not divide 4 heads"),
        (4, (0, 1, 4), "pp 4 is more stages than the 3 layers"),
        (8, (8, 1, 1), "batch_size 7 over 8 copies of the model leaves some without a sample"),
        (4, (4, 1, 0), "each must be at least 1"),
        (4, (-1, 1, 1), "each must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(ranks, axes, words):
    with pytest.raises(UserError) as refused:
        check(CONFIG, ranks, *axes, batch_size=7)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_vocabulary_smaller_than_the_ranks_is_refused():
    config = GPTConfig(block_size=4, vocab_size=3, n_layer=1, n_head=4, n_embd=8)
    with pytest.raises(UserError, match="vocabulary of 3"):
        check(config, 4, 1, 4, 1, 8)


@pytest.mark.parametrize("ranks, axes", [(6, (0, 2, 3)), (7, (0, 1, 1)), (1, (1, 1, 1))])
def test_what_fits_passes(ranks, axes):
    check(CONFIG, ranks, *axes, batch_size=7)


def test_the_grid_itself_refuses_another_number_of_ranks():
    with pytest.raises(UserError, match="start 4"):
        run_threads(3, lambda comm: Grid(comm, 2, 2, 1))
