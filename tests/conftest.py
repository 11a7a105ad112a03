"""Shared by all tests: hypothesis draws the same examples every time, and never times out on a busy
machine; compiled kernels and data go to the usual cache."""

import os

import hypothesis
import numpy as np
import pytest

from minillm.cli.checks.process import user_environment

hypothesis.settings.register_profile(
    "minillm", deadline=None, max_examples=25, derandomize=True, database=None
)
hypothesis.settings.load_profile("minillm")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes():
    """Workers find the environment as the user has set it, without what `import minillm` adds."""
    for name in os.environ.keys() - user_environment().keys():
        del os.environ[name]


@pytest.fixture
def rng():
    """Random numbers, the same for every test."""
    return np.random.default_rng(0)
