"""Kernel declarations, their implementations, and the choice between them.

A folder `kernels/<op>/` declares its kernels once, in `__init__.py`: shapes, cost, test inputs. Its
other files are their implementations (implementations.py). Tests, benchmarks and CHECK=1 all come
from the declaration, so a new implementation is tested and measured as soon as its file exists.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from minillm import env
from minillm.device import Array, device_of
from minillm.errors import UserError
from minillm.kernels.implementations import Implementations

KERNELS: dict[str, "Kernel"] = {}


def declared() -> dict[str, "Kernel"]:
    """Every kernel by name, after importing each declaration in this folder."""
    folder = importlib.import_module(__package__).__path__
    for module in pkgutil.iter_modules(folder):
        if module.ispkg:
            importlib.import_module(f"{__package__}.{module.name}")
    return KERNELS


class Cost(NamedTuple):
    """What one call must at least do: bytes read and written, floating-point operations."""

    bytes: int
    flops: int


class Kernel(Implementations):
    """One kernel: what it computes, and every implementation of it found beside its declaration.

    Calling it runs the implementation that fits the first argument's device and dtype.

    Args:
        package: `__name__` of the declaring module; its files are the implementations.
        name: the function's name in every implementation.
        signature: arguments and results with shapes, for readers and error messages.
        inputs: `inputs(rng, **shape) -> args`; float64 arrays in it are cast to the tested dtype.
        shapes: small and odd shapes to test, as keyword arguments of `inputs`.
        bench: shapes to measure, as keyword arguments of `inputs`.
        bench_gpu: shapes to measure on a GPU, which larger ones fill; `bench` if there are none.
        cost: `cost(*args) -> Cost`, from the arguments of a call.
        mutates: positions of the arguments that are changed in place.
        dtypes: dtypes that cpu implementations must handle.
        statistics: positions of floating inputs that are kept in float32 where others are narrower.
    """

    def __init__(
        self,
        package: str,
        name: str,
        signature: str,
        *,
        inputs: Callable[..., tuple],
        shapes: list[dict[str, Any]],
        bench: list[dict[str, Any]],
        cost: Callable[..., Cost],
        mutates: tuple[int, ...] = (),
        dtypes: tuple[str, ...] = ("float32", "float64"),
        statistics: tuple[int, ...] = (),
        bench_gpu: list[dict[str, Any]] | None = None,
    ):
        super().__init__(package, name, signature, dtypes)
        self.inputs, self.shapes, self.bench, self.cost = inputs, shapes, bench, cost
        self.mutates, self.statistics = mutates, statistics
        self.bench_gpu = bench_gpu or bench
        self.op = package.rpartition(".")[2]
        self._resolved: dict[tuple, Callable] = {}
        KERNELS[name] = self

    def __repr__(self) -> str:
        return f"{self.name}({self.signature})"

    def __call__(self, *args: Any) -> Any:
        first = args[0]
        key = (type(first), first.dtype)
        run = self._resolved.get(key)
        if run is None:
            run = self._resolved[key] = self._resolve(first)
        return run(*args)

    def drawn(self, dtype: Any, seed: int = 0, **shape: Any) -> tuple:
        """Arguments of a call with random numbers in `dtype`, of a shape out of `shapes`."""
        if dtype == "bfloat16":
            importlib.import_module("ml_dtypes")  # NumPy knows it from then on
        dtype = np.dtype(dtype)
        wide = np.promote_types(dtype, np.float32)
        args = self.inputs(np.random.default_rng(seed), **shape)
        return tuple(
            a.astype(wide if i in self.statistics else dtype)
            if isinstance(a, np.ndarray) and a.dtype == np.float64
            else a
            for i, a in enumerate(args)
        )

    def _resolve(self, array: Array) -> Callable:
        _check_forced()
        dtype = str(array.dtype)
        name, why = self._choose(device_of(array), dtype)
        env.debug(1, f"kernel {self.name}: {name} for {dtype}{why}")
        function = self.implementation(name)
        if env.CHECK or env.DEBUG >= 2:
            from minillm.kernels.instrument import instrumented

            return instrumented(self, name, function)
        return function

    def _choose(self, device: str, dtype: str) -> tuple[str, str]:
        """The implementation to run and, for DEBUG=1, why it is not the usual one."""
        forced = _forced.get(self.name) or _forced.get(self.op)
        if forced is not None:
            self.implementation(forced)  # named for this kernel: it must exist
        elif "" in _forced and self._function(_forced[""]) is not None:
            forced = _forced[""]
        if forced is not None:
            if not self.supports(forced, dtype):
                raise UserError(f"kernel {self.name}: {forced} does not support {dtype}")
            if forced.startswith("cpu") and device != "cpu":
                raise UserError(f"kernel {self.name}: {forced} takes arrays on the CPU only")
            return self._newest(forced), " (forced)"
        if self._function(device) is None:
            return "reference", f" (no {device} implementation)"
        if not self.supports(device, dtype):
            return "reference", f" ({device} does not support {dtype})"
        return self._newest(device), ""

    def _newest(self, name: str) -> str:
        """What "cuda" stands for; other names stand for themselves."""
        return self.cuda_steps()[-1] if name == "cuda" else name


_forced: dict[str, str] = {}


def _parse(choices: str) -> dict[str, str]:
    """`"reference"` -> {"": "reference"};  `"matmul=cpu_blocked"` -> {"matmul": "cpu_blocked"}."""
    forced = {}
    for item in filter(None, (part.strip() for part in choices.split(","))):
        target, equals, implementation = (part.strip() for part in item.rpartition("="))
        if not implementation or (equals and not target):
            raise UserError(
                f"kernel choice {item!r}: write IMPLEMENTATION or KERNEL=IMPLEMENTATION"
            )
        forced[target] = implementation
    return forced


def _check_forced() -> None:
    """Refuse a choice that fits no kernel: a misspelt one must not pass for the default."""
    for target, implementation in _forced.items():
        kernels = [k for k in declared().values() if target in ("", k.op, k.name)]
        if not kernels:
            have = ", ".join(sorted({k.op for k in KERNELS.values()}))
            raise UserError(f"kernel choice: no kernel is called {target!r}; there are: {have}")
        if all(k._function(implementation) is None for k in kernels):
            have = ", ".join(dict.fromkeys(n for k in kernels for n in k.implementations()))
            raise UserError(
                f"kernel choice: {target or 'the kernels'}: no implementation {implementation!r};"
                f" there are: {have}"
            )


def _force(forced: dict[str, str]) -> None:
    _forced.clear()
    _forced.update(forced)
    for kernel in KERNELS.values():
        kernel._resolved.clear()


@contextmanager
def use(choices: str) -> Iterator[None]:
    """Force implementations inside a `with` block: `use("reference")`, `use("matmul=cpu_blocked")`.

    A bare implementation name applies to every kernel that has it, whatever an outer block or
    MINILLM_KERNELS said of one; KERNEL=IMPLEMENTATION takes a
    kernel's or an op folder's name and must exist. MINILLM_KERNELS takes the same words.

    Raises:
        UserError: malformed choice here; unknown kernel or implementation at the first kernel call.
    """
    before, chosen = dict(_forced), _parse(choices)
    _force(chosen if "" in chosen else {**before, **chosen})
    try:
        yield
    finally:
        _force(before)


_force(_parse(env.KERNELS))
# `kernels.use`: the folder has no __init__.py to say so, lest it become a package "kernels".
vars(sys.modules["minillm.kernels"])["use"] = use
