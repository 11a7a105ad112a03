"""The vectorisable functions against the standard library's, over the whole range of each."""

import math
import re

import numba
import numpy as np
import pytest

from minillm.kernels.runtime import vmath
from minillm.kernels.runtime.jit import jit

FUNCTIONS = {  # name: the same in float64, units in the last place allowed
    "exp": (np.exp, 1.5),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 3),
    "tanh": (np.tanh, 3),
    "erf": (np.vectorize(math.erf, otypes=[float]), 3),
    "erfcx": (np.vectorize(lambda x: math.exp(x * x) * math.erfc(x), otypes=[float]), 4),
}
SPECIAL = {  # at 0, inf, -inf
    "exp": (1, np.inf, 0),
    "sigmoid": (0.5, 1, 0),
    "tanh": (0, 1, -1),
    "erf": (0, 1, -1),
    "erfcx": (None, 0, None),  # 1 to a few units at 0; defined for x >= 0
}


def loop(function):
    def run(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    return run


COMPILED = {name: jit(loop(getattr(vmath, name))) for name in FUNCTIONS}


def applied(name, x):
    y = np.empty_like(x)
    COMPILED[name](x, y)
    return y


@jit
def _amax(row):
    return vmath.amax(row)


def grid(dtype):
    near = np.linspace(-12, 12, 20001)
    wide = np.linspace(-760, 720, 5001)  # past both ends of float64's exp
    sizes = np.geomspace(1e-30, 1e30, 3001)
    return np.concatenate([near, wide, sizes, -sizes]).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_accurate_over_the_whole_range(name, dtype):
    exact, ulps = FUNCTIONS[name]
    x = grid(dtype)
    if name == "erfcx":  # e^(x^2) and erfc each stay in float64's range up to here
        x = x[(x >= 0) & (x <= 5)]
        ulps += 25 * (dtype is np.float64)  # of the oracle: e^(x^2) has x^2 times x's rounding
    with np.errstate(over="ignore", under="ignore"):
        want = exact(x.astype(np.float64))
        rounded = want.astype(dtype)
    got = applied(name, x)
    info = np.finfo(dtype)
    same = got == rounded  # infinities too
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.abs(want), info.tiny)  # numbers below are spaced like those at tiny
        error = np.where(same, 0, np.abs(got.astype(np.float64) - want) / (size * info.eps))
    if name == "sigmoid":  # documented to be 0 where the result is below the smallest normal
        error[(want < info.tiny) & (got == 0)] = 0
    worst = int(error.argmax())
    assert error[worst] <= ulps, f"{name}({x[worst]!r}) = {got[worst]!r}, want {want[worst]!r}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_zero_infinities_and_nan(name, dtype):
    x = np.array([0, np.inf, -np.inf, np.nan], dtype)
    *got, nan = applied(name, x)
    for value, want in zip(got, SPECIAL[name]):
        assert want is None or value == want
    assert np.isnan(nan)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*FUNCTIONS, "amax"])
def test_llvm_vectorises_it(name, dtype):
    """The loop's work is on several numbers at once: what these functions are for."""
    function = getattr(vmath, name)
    element, row = numba.types.float32, numba.types.float32[::1]
    if dtype == "float64":
        element, row = numba.types.float64, numba.types.float64[::1]
    if name == "amax":
        compiled = numba.njit(element(row))(lambda x: function(x))
        work = r"icmp sgt <\d+ x i32|@llvm.smax.v\d+i32|icmp sgt <\d+ x i64|@llvm.smax.v\d+i64"
    else:
        compiled = numba.njit(numba.void(row, row))(loop(function))
        work = rf"fmul.* <\d+ x {'float' if dtype == 'float32' else 'double'}>"
    (source,) = compiled.inspect_llvm().values()
    assert re.search(work, source)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_amax(dtype):
    rng = np.random.default_rng(0)
    for n in (1, 2, 63, 64, 65, 1000):
        for row in (rng.normal(size=n), -rng.exponential(size=n), rng.normal(size=n) * 1e30):
            assert _amax(row.astype(dtype)) == row.astype(dtype).max()
    assert _amax(np.array([-np.inf, -np.inf], dtype)) == -np.inf
    assert _amax(np.array([-np.inf, -3, np.inf, 2], dtype)) == np.inf
    assert np.isnan(_amax(np.array([1, np.nan, 2], dtype)))
    assert math.copysign(1, _amax(np.array([-0.0, -1], dtype))) == -1


def test_only_for_compiled_code():
    with pytest.raises(TypeError, match="vmath.exp is for compiled code only"):
        vmath.exp(1.0)
