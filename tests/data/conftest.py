"""Shakespeare's plays, for the tests that want real text; they are not part of the project."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def shakespeare() -> Path:
    path = Path(os.environ.get("MINILLM_TEST_SHAKESPEARE", ""))
    if not path.is_file():
        pytest.skip("set MINILLM_TEST_SHAKESPEARE to the path of tinyshakespeare's input.txt")
    return path
