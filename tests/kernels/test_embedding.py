"""Embedding beside the generic test: rows asked for often, and not at all."""

import numpy as np
import pytest

from minillm import env
from minillm.errors import UserError
from minillm.kernels.embedding import embedding_backward, embedding_forward
from minillm.kernels.registry import use


def test_repeated_ids_add_up_in_order_on_any_number_of_threads(monkeypatch):
    rng = np.random.default_rng(0)
    dy, ids = rng.normal(size=(4000, 200)).astype(np.float32), rng.integers(0, 3, 4000)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(env, "THREADS", threads)
        results.append(embedding_backward(dy, ids, 5))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    assert not results[0][3:].any()


@pytest.mark.parametrize("implementation", ["cpu", "reference"])
@pytest.mark.parametrize("bad", [-1, 5])
def test_ids_outside_the_table_are_refused(implementation, bad):
    ids, message = np.array([0, bad]), f"id {bad} is outside the table of 5 rows"
    with use(implementation):
        with pytest.raises(UserError, match=message):
            embedding_forward(np.zeros((5, 3)), ids)
        with pytest.raises(UserError, match=message):
            embedding_backward(np.zeros((2, 3)), ids, 5)
