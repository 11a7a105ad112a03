"""What runs here needs a GPU: everything is skipped, with the reason, where there is none."""

import pytest


def _missing() -> str:
    try:
        import cupy
    except ImportError:
        return "no CuPy: pip install 'minillm[cuda13]'"
    return "" if cupy.cuda.is_available() else "CuPy finds no usable GPU or driver"


MISSING = _missing()


def pytest_collection_modifyitems(items):
    if MISSING:
        for item in items:
            if "tests/gpu/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture
def poisoned(monkeypatch):
    """Arrays fresh from cupy.empty hold bytes of 0xff, NaN in every float and -1 or the largest in
    integers, so that nothing unwritten can pass for a result."""
    import cupy

    def fill(array):
        if array.size:
            array.data.memset_async(0xFF, array.nbytes)
        return array

    for name in ("empty", "empty_like"):
        make = getattr(cupy, name)
        monkeypatch.setattr(cupy, name, lambda *a, make=make, **k: fill(make(*a, **k)))
    return cupy
