"""Cutting and joining arrays."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minillm.models.gpt import GPT
from minillm.parallel.splits import Split, cut, cut_shape, join, split_of
from tests.parallel.training import MODELS, build


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 1))
def test_join_undoes_cut(segments, size, dim):
    n = sum(segments)
    array = np.arange(3.0 * n).reshape((n, 3) if dim == 0 else (3, n))
    split = Split(dim, tuple(segments))
    shares = [cut(array, split, rank, size) for rank in range(size)]
    for rank, share in enumerate(shares):
        assert share.shape == cut_shape(array.shape, split, rank, size)
        assert share.flags.c_contiguous and not np.may_share_memory(share, array)
    np.testing.assert_array_equal(join(shares, split), array)


def test_heads_of_queries_keys_and_values_stay_together():
    """Rank 1 of 2 has heads 2, 3 of 4 queries, and head 1 of 2 keys and of 2 values."""
    config = MODELS["llama"]  # H = 8, G = 4, D = 4
    split = split_of("blocks.0.attention.qkv.weight", config)
    heads = np.repeat(np.arange(16), 4)[:, None]  # 8 queries, 4 keys, 4 values
    share = cut(heads, split, 1, 4)[::4, 0]
    assert share.tolist() == [2, 3, 8 + 1, 12 + 1]


def test_every_parameter_of_every_model_is_cut_where_its_dimension_says():
    for name, config in MODELS.items():
        model: GPT = build(config)
        whole = set()
        for path, p in model.named_parameters():
            split = split_of(path, config)
            if split is None:
                whole.add(path.split(".", 2)[-1] if path.startswith("blocks") else path)
            else:
                assert sum(split.segments) == p.shape[split.dim], (name, path)
        assert all("norm" in path or path in ("position_embedding.weight", "attention.proj.bias",
                   "mlp.proj.bias") for path in whole), whole  # fmt: skip
