"""The code in the chapters is run by the tests: `pytest tutorials/ch05_layer_norm`."""

from sybil import Sybil

from tests.conftest import pytest_xdist_setupnodes  # noqa: F401 - where only chapters are run
from tests.fences import parse

pytest_collect_file = Sybil(parsers=[parse], patterns=["README.md", "tour.md"]).pytest()
