"""Shared by all tests: hypothesis draws the same examples every time, and never times out on a busy
machine; compiled kernels and data go to the usual cache."""

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "minillm", deadline=None, max_examples=25, derandomize=True, database=None
)
hypothesis.settings.load_profile("minillm")


@pytest.fixture
def rng():
    """Random numbers, the same for every test."""
    return np.random.default_rng(0)
