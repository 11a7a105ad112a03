"""The stand-in for CuPy against the real one, which imports, and makes views, without a GPU."""

import inspect
import re

import ml_dtypes
import numpy as np
import pytest

from tests import fake_cupy
from tests.fake_cupy import array, functions, ufuncs


@pytest.fixture
def cupy():
    """The real CuPy."""
    return pytest.importorskip("cupy", reason="CuPy is not installed: nothing to compare with")


def _real_signature(member):
    """Parameter names and defaults (as source text) of a function or of a method of CuPy's."""
    try:
        parameters = inspect.signature(member).parameters.values()
    except ValueError:  # a method of a compiled class: its first line of documentation has it
        inside = re.search(r"\((.*)\)", member.__doc__.splitlines()[0]).group(1)
        words = [re.sub(r"^(Py_ssize_t|_ndarray_base|bint) ", "", w) for w in inside.split(", ")]
        return dict((*w.partition("=")[::2],) for w in words)
    plain = {p.name: "" if p.default is p.empty else _text(p.default) for p in parameters}
    starred = {p.name: f"*{p.name}" if p.kind == p.VAR_POSITIONAL else f"**{p.name}"
               for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}  # fmt: skip
    return {starred.get(name, name): default for name, default in plain.items()}


def _text(default):
    return default.__name__ if isinstance(default, type) else repr(default)


def _assert_offered(name, ours, real):
    mine, theirs = _real_signature(ours), _real_signature(real)
    for parameter, default in mine.items():
        assert parameter in theirs, f"{name} of CuPy has no {parameter}, but {list(theirs)}"
        assert default == theirs[parameter], f"{name}({parameter}): {default}"
    assert [p for p in theirs if p in mine] == list(mine), f"{name}: order of parameters"


@pytest.mark.parametrize("name", functions.NAMES)
def test_cupy_has_the_function_with_these_parameters(cupy, name):
    _assert_offered(name, getattr(functions, name), getattr(cupy, name))


_METHODS = [n for n, m in vars(array.ndarray).items() if inspect.isfunction(m) and n[0] != "_"]


@pytest.mark.parametrize("name", _METHODS)
def test_cupy_has_the_method_with_these_parameters(cupy, name):
    _assert_offered(name, getattr(array.ndarray, name), getattr(cupy.ndarray, name))


def test_cupy_has_every_other_attribute(cupy):
    for name in vars(array.ndarray):
        ours_alone = name in ("_memory", "_key", "__doc__", "__module__", "__weakref__", "__hash__")
        assert ours_alone or getattr(cupy.ndarray, name, None) is not None, name
    for name in ("__index__", "__contains__"):
        assert getattr(cupy.ndarray, name, None) is None and not hasattr(array.ndarray, name)


@pytest.mark.parametrize("name", ufuncs.NAMES)
def test_cupy_has_the_ufunc_with_a_loop_for_bfloat16(cupy, name):
    real = getattr(cupy, name)
    bitwise = name.startswith("bitwise") or name == "invert" or name.endswith("shift")
    assert bitwise or any("E" in loop.split("->")[0] for loop in real.types), real.types
    with pytest.raises(TypeError, match="Wrong arguments"):
        real(1, 2, where=True)
    with pytest.raises(TypeError, match="Wrong arguments"):
        ufuncs.FUNCTIONS[name](1, 2, where=True)


def test_cupy_cannot_choose_in_bfloat16(cupy):
    from cupy._sorting.search import _where_ufunc

    assert not any("E" in loop for loop in _where_ufunc.types)


@pytest.mark.parametrize(
    "path",
    ["is_available", "get_current_stream", "Device.use", "Device.synchronize", "Device.mem_info",
     "Device.pci_bus_id", "Device.attributes", "Device.compute_capability", "Stream.synchronize",
     "MemoryPool.set_limit", "MemoryPool.used_bytes", "MemoryPool.total_bytes",
     "runtime.getDeviceCount", "runtime.getDeviceProperties", "memory.OutOfMemoryError"],
)  # fmt: skip
def test_cupy_has_what_is_asked_of_the_gpu(cupy, path):
    real = cupy.cuda
    for name in path.split("."):
        real = getattr(real, name)
    with fake_cupy.installed():
        import cupy as ours

        for name in ["cuda", *path.split(".")]:
            ours = getattr(ours, name)
    for name in fake_cupy.Device.attributes:
        assert hasattr(cupy.cuda.runtime, f"cudaDevAttr{name}")


VIEWS = {
    "slice": lambda x, xp: x[1:, ::2],
    "reverse": lambda x, xp: x[::-1],
    "row": lambda x, xp: x[1],
    "element": lambda x, xp: x[1, 2],
    "ellipsis": lambda x, xp: x[..., None, 1],
    "reshape": lambda x, xp: x.reshape(2, -1),
    "reshape of a view": lambda x, xp: x[1:].reshape(-1),
    "ravel": lambda x, xp: x.ravel(),
    "T": lambda x, xp: x.T,
    "T of one dimension": lambda x, xp: x[0].T,
    "transpose": lambda x, xp: x[None].transpose((2, 0, 1)),
    "transpose by a list": lambda x, xp: x[None].transpose([2, 0, -2]),
    "reshape to a tuple": lambda x, xp: x.reshape((2, 1, 6)),
    "end of a tuple": lambda x, xp: x[(slice(None), -1, Ellipsis)],
    "empty slice": lambda x, xp: x[:, 2:2],
    "swapaxes": lambda x, xp: x.swapaxes(0, 1),
    "squeeze": lambda x, xp: x[:, None].squeeze(1),
    "bytes": lambda x, xp: x[1].view(np.uint8),
    "broadcast": lambda x, xp: xp.broadcast_to(x[1], (2, 3, 4)),
    "moveaxis": lambda x, xp: xp.moveaxis(x, 0, -1),
    "ascontiguousarray": lambda x, xp: xp.ascontiguousarray(x),
    "ascontiguousarray, 0-d": lambda x, xp: xp.ascontiguousarray(x[0, 0]),
    "astype without need": lambda x, xp: x.astype("float32", copy=False),
}


def _on_no_gpu(cupy, host):
    """A real CuPy array over host memory: enough for everything that computes nothing."""
    memory = cupy.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
    return cupy.ndarray(host.shape, host.dtype, cupy.cuda.MemoryPointer(memory, 0), host.strides)


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_as_cupys(cupy, name):
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    theirs = _on_no_gpu(cupy, host)
    ours = array.adopt(host)
    from types import SimpleNamespace

    got = VIEWS[name](ours, SimpleNamespace(**functions.EVERYTHING))
    want = VIEWS[name](theirs, cupy)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if want.size > 1:
        assert got.strides == want.strides
        assert got.data.ptr - ours.data.ptr == want.data.ptr - theirs.data.ptr
    assert got.flags.c_contiguous == want.flags.c_contiguous
    assert got.flags.owndata == want.flags.owndata
    assert (got is ours, got.base is ours) == (want is theirs, want.base is theirs)


MEETINGS = [
    (name, dtype, other)
    for name in ("multiply", "true_divide", "maximum", "power", "greater")
    for dtype in ("bfloat16", "float32")
    for other in (2, 0.5, np.float32(2), np.float64(2), np.int64(2), ml_dtypes.bfloat16(2),
                  np.ones(3, "bfloat16"), np.ones(3, "float32"), np.ones((), "float32"),
                  np.ones(3, "float64"), np.ones(3, "int64"), np.ones(3, bool))
]  # fmt: skip


@pytest.mark.parametrize(
    "name, dtype, other", MEETINGS, ids=lambda x: f"{type(x).__name__}-{getattr(x, 'dtype', x)}"
)
def test_dtypes_meet_as_in_cupy(cupy, name, dtype, other):
    """What CuPy would compute in; it is asked before it needs a GPU."""
    from cupy._core._scalar import CScalar

    x, real = np.ones(3, dtype), getattr(cupy, name)
    given = _on_no_gpu(cupy, other) if isinstance(other, np.ndarray) else CScalar(other)
    loop = real._ops.guess_routine(name, {}, [_on_no_gpu(cupy, x), given], None, real._out_ops)
    mine = array.adopt(other) if isinstance(other, np.ndarray) else other
    assert ufuncs.FUNCTIONS[name](array.adopt(x), mine).dtype == np.dtype(loop.out_types[0])


REFUSED = {
    "implicit conversion": (TypeError, lambda x, a, xp: np.asarray(x)),
    "item from NumPy": (ValueError, lambda x, a, xp: x.__setitem__(..., a)),
    "contiguous copy of NumPy": (TypeError, lambda x, a, xp: xp.ascontiguousarray(a)),
    "product with NumPy": (TypeError, lambda x, a, xp: x @ a),
    "product of NumPy": (TypeError, lambda x, a, xp: a @ x),
    "initial of a reduction": (TypeError, lambda x, a, xp: x.max(initial=0)),
    "set in another dtype": (TypeError, lambda x, a, xp: x.set(a.astype("float64"))),
    "set in another shape": (ValueError, lambda x, a, xp: x.set(a[:1])),
    "shape that does not fit": (ValueError, lambda x, a, xp: x.reshape(5, 5)),
    "axes that repeat": (ValueError, lambda x, a, xp: x.transpose((0, 0))),
    "broadcast that does not fit": (ValueError, lambda x, a, xp: xp.broadcast_to(x, (5, 5))),
    "index out of range": (IndexError, lambda x, a, xp: x[5]),
    "as an index of a list": (TypeError, lambda x, a, xp: [1, 2][x[0, 0]]),
    "bytes of a transpose": (ValueError, lambda x, a, xp: x.T.view(np.uint8)),
    "casting": (TypeError, lambda x, a, xp: x.astype("float64", casting="unsafe")),
    "length of 0-d": (TypeError, lambda x, a, xp: len(x[0, 0])),
    "hash": (TypeError, lambda x, a, xp: hash(x)),
    "read-only": (AttributeError, lambda x, a, xp: x.flags.writeable),
    "attribute": (AttributeError, lambda x, a, xp: setattr(x, "note", 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cupy_refuses_is_refused(cupy, name):
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    error, ask = REFUSED[name]
    with pytest.raises(error):
        ask(_on_no_gpu(cupy, host), host, cupy)
    with fake_cupy.installed():
        import cupy as stand_in

        with pytest.raises(error):
            ask(array.adopt(host), host, stand_in)


# --- what cannot be asked of the real one without a GPU: from its documentation and its source ----


@pytest.fixture
def xp():
    """The stand-in."""
    with fake_cupy.installed():
        import cupy

        yield cupy


@pytest.mark.parametrize(
    "meet",
    [lambda x, a: x + a, lambda x, a: a + x, lambda x, a: x.__iadd__(a), lambda x, a: a.__iadd__(x),
     lambda x, a: a * x, lambda x, a: np.maximum(x, a), lambda x, a: np.add(a, x, out=a)],
)  # fmt: skip
def test_host_and_gpu_do_not_meet(xp, meet):
    a = np.ones(3, np.float32)
    with pytest.raises(TypeError):
        meet(xp.asarray(a), a)


def test_numbers_of_numpy_do_meet(xp):
    x = xp.ones(3, np.float32)
    for y in (np.float32(2) * x, x * np.float32(2), 2 * x, np.multiply(x, 2)):
        assert isinstance(y, xp.ndarray) and y.dtype == np.float32 and y.get().tolist() == [2] * 3


def test_reductions_and_elements_are_arrays_and_reading_them_waits(xp):
    x = xp.arange(3)
    before = fake_cupy.waits()
    total, element = x.sum(), x[1]
    assert isinstance(total, xp.ndarray) and total.shape == element.shape == ()
    assert not np.isscalar(total) and fake_cupy.waits() == before
    assert (float(total), int(element), bool(total > 2), f"{element}") == (3.0, 1, True, "1")
    assert fake_cupy.waits() == before + 4
    x[x > 1] = 0
    assert fake_cupy.waits() == before + 5


def test_indices_wrap_around_and_an_element_is_written_once(xp):
    x = xp.arange(4)
    assert x[xp.asarray([5, -1])].get().tolist() == [1, 3]
    with pytest.raises(AssertionError, match="written twice"):
        x[xp.asarray([1, 1])] = 0


def test_where_takes_bfloat16_to_float32(xp):
    x = xp.ones(3, ml_dtypes.bfloat16)
    assert (x + x).dtype == x.dtype and xp.where(x > 0, x, x).dtype == np.float32


def test_empty_memory_is_of_no_use_and_begins_where_vectors_can_be_loaded(xp):
    assert np.isnan(xp.empty(3).get()).all()
    assert all(xp.zeros(n, np.uint8).data.ptr % 512 == 0 for n in range(1, 5))


def test_nothing_is_left_behind():
    import sys

    before = sys.modules.get("cupy")
    with fake_cupy.installed():
        assert sys.modules["cupy"].cuda.is_available()
    assert sys.modules.get("cupy") is before
