"""Embedding beside the generic test: rows asked for often, and not at all."""

import numpy as np

from minillm import env
from minillm.kernels.embedding import embedding_backward


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
