"""Who has what of n."""

from hypothesis import given
from hypothesis import strategies as st

from minillm.distributed.spans import span


@given(st.integers(0, 100), st.integers(1, 9))
def test_every_element_has_one_rank_and_ranks_have_as_many(n, size):
    elements = list(range(n))
    parts = [elements[span(n, rank, size)] for rank in range(size)]
    assert sum(parts, []) == elements
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
