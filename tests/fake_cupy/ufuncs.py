"""The stand-in's ufuncs and the operators made of them, with CuPy's few keywords and no more."""

import numpy as np

from tests.fake_cupy.array import adopt, destination, finish, ndarray, operand

# Each has a loop for bfloat16 in CuPy 14 too.
NAMES = (
    "abs", "absolute", "add", "bitwise_and", "bitwise_or", "bitwise_xor", "cos", "divide", "equal",
    "exp", "floor_divide", "greater", "greater_equal", "invert", "isfinite", "isinf", "isnan",
    "left_shift", "less", "less_equal", "log", "log1p", "maximum", "minimum", "multiply",
    "negative", "not_equal", "power", "remainder", "right_shift", "sign", "sin", "sqrt", "subtract",
    "tanh", "true_divide",
)  # fmt: skip
_COMPARISONS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")


class ufunc:
    """A function of each element. `where`, `axis` and the like are refused, as CuPy does."""

    def __init__(self, name: str):
        self.__name__ = name
        self._numpy = getattr(np, name)

    def __call__(self, *args, out=None, dtype=None, casting="same_kind", **wrong):
        if wrong:
            raise TypeError(f"Wrong arguments {wrong}")
        if len(args) > self._numpy.nin:
            *args, out = args
        into = destination(out)
        result = self._numpy(*map(operand, args), out=into, dtype=dtype, casting=casting)
        return finish(result, out)

    def at(self, a, indices, b=None):
        """Adds in any order: atomics, for these dtypes only."""
        if self.__name__ != "add" or a.dtype.name not in (
            "int32", "float16", "float32", "float64", "uint32", "uint64"
        ):  # fmt: skip
            raise TypeError(f"`{self.__name__}.at` does not support {a.dtype}")
        key = a._key(indices)
        order = np.random.default_rng(0).permutation(b.shape[0]) if b.ndim else None
        if isinstance(indices, ndarray) and order is not None:
            key, b = (key[0][order], ...), adopt(b._memory[order])
        np.add.at(a._memory, key, operand(b))


FUNCTIONS = {name: ufunc(name) for name in NAMES}


def _deferred(other: object) -> bool:
    """Whether `other` has asked to be given the operator itself, as Tensor does."""
    return not isinstance(other, ndarray) and getattr(other, "__array_ufunc__", 0) is None


def _binary(name: str):
    function = FUNCTIONS[name]

    def forward(self, other):
        return NotImplemented if _deferred(other) else function(self, other)

    def reflected(self, other):
        return NotImplemented if _deferred(other) else function(other, self)

    def in_place(self, other):
        return NotImplemented if _deferred(other) else function(self, other, out=self)

    return forward, reflected, in_place


for _operator, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide",
    "floordiv": "floor_divide", "mod": "remainder", "pow": "power", "and": "bitwise_and",
    "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift",
}.items():  # fmt: skip
    for _prefix, _method in zip(("", "r", "i"), _binary(_name)):
        setattr(ndarray, f"__{_prefix}{_operator}__", _method)
for _operator, _name in dict(zip(("gt", "ge", "lt", "le", "eq", "ne"), _COMPARISONS)).items():
    setattr(ndarray, f"__{_operator}__", _binary(_name)[0])
for _operator, _name in {"neg": "negative", "invert": "invert", "abs": "absolute"}.items():
    setattr(ndarray, f"__{_operator}__", lambda self, f=FUNCTIONS[_name]: f(self))


def _array_ufunc(self, function, method, *inputs, **kwargs):
    """What NumPy's ufuncs do when they are given an array of the GPU: ours, host arrays refused."""
    ours = FUNCTIONS.get(function.__name__)
    if method != "__call__" or ours is None:
        return NotImplemented
    if "out" in kwargs:
        (kwargs["out"],) = kwargs["out"]
    if function.__name__ in _COMPARISONS:
        inputs = [x.item() if isinstance(x, np.ndarray) and not x.ndim else x for x in inputs]
    return ours(*inputs, **kwargs)


ndarray.__array_ufunc__ = _array_ufunc
