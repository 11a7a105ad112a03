"""A launch's arguments: checked against the kernel's parameters, packed for cuLaunchKernel.

In: a kernel's parameter list as its source declares it; arrays and numbers. Out: a void*[] with the
address of each argument, or one line that says which argument does not fit.
"""

import ctypes
import struct
from typing import Any, NamedTuple

import numpy as np

from minillm.device import Array, device_of
from minillm.errors import UserError

DTYPES = {"float32": "float", "float64": "double", "bfloat16": "bf16"}
# Numbers that a kernel may take by value: letter of the struct module, and dtype of an array of it.
_SCALARS = {
    "bool": ("?", "bool"), "int": ("i", "int32"), "unsigned": ("I", "uint32"),
    "unsigned int": ("I", "uint32"), "long long": ("q", "int64"),
    "unsigned long long": ("Q", "uint64"), "float": ("f", "float32"), "double": ("d", "float64"),
}  # fmt: skip

_SLOT = 64  # bytes of an argument's memory
_STRUCT = f"{_SLOT}s"
_NO_NUMBER = (struct.error, TypeError, OverflowError, ValueError)


class Strided(NamedTuple):
    """An array whose strides the kernel is told by other arguments: it need not be contiguous."""

    array: Array


class Parameter(NamedTuple):
    """One parameter of a kernel as its source declares it."""

    name: str
    type: str  # without const, * and __restrict__
    pointer: bool
    writable: bool


def accum(dtype: Any) -> Any:
    """The dtype in which statistics and sums of `dtype` are kept: accum<T> in types.cuh."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


class Arguments:
    """The memory that a launch reads a kernel's arguments from: a value each, a pointer to each.

    Made once for a kernel and dtype, filled anew for each launch, in few steps: on a GPU this is
    most of what a launch costs.
    """

    def __init__(self, where: str, parameters: tuple[Parameter, ...], dtype: Any):
        self.where, self.parameters = where, parameters
        self.arrays: list[tuple[int, str, np.ndarray, bool]] = []
        self._pointers: list[tuple[int, str, np.dtype, bool]] = []
        self._structs: list[int] = []
        self._formats: list[str] = []
        for i, p in enumerate(parameters):
            kind = _resolve(p, np.dtype(dtype), where)
            if p.pointer:
                self._pointers.append((i, p.name, kind, p.writable))
            elif kind == _STRUCT:
                self._structs.append(i)
            letter = "Q" if p.pointer else kind
            self._formats.append(f"{letter}{_SLOT - struct.calcsize(letter)}x")
        self._pack_into = struct.Struct("=" + "".join(self._formats)).pack_into
        self._values = ctypes.create_string_buffer(_SLOT * max(len(parameters), 1))
        start = ctypes.addressof(self._values)
        places = (start + _SLOT * i for i in range(len(parameters)))
        self._places = (ctypes.c_void_p * max(len(parameters), 1))(*places)
        self.address = ctypes.addressof(self._places)

    def set_pointer(self, position: int, address: int) -> None:
        """Where the array at `position` is."""
        struct.pack_into("Q", self._values, _SLOT * position, address)

    def fill(self, args: tuple) -> str:
        """Check and store `args`; the device that the arrays are on."""
        if len(args) != len(self.parameters):
            names = ", ".join(p.name for p in self.parameters)
            raise UserError(f"{self.where}({names}) was given {len(args)} arguments")
        device = here = last = None
        values, self.arrays = list(args), []
        for i, name, dtype, writable in self._pointers:
            array = args[i]
            strided = type(array) is Strided
            if strided:
                array = array.array
            try:
                fits = array.dtype == dtype and (strided or array.flags.c_contiguous)
                if type(array) is not last:
                    last, here = type(array), device_of(array)
                    fits = fits and not isinstance(array, np.generic)
                values[i] = 0 if here == "cpu" else array.data.ptr
            except AttributeError:  # no array
                fits = False
            if not fits:
                raise self._unfit(name, array, dtype)
            if here != device:
                if device is not None:
                    raise UserError(f"{self.where}: {name} is on {here}, others on {device}")
                device = here
            if here == "cpu":
                if writable and not array.flags.writeable:
                    raise UserError(f"{self.where}: {name} is written, but is read-only")
                self.arrays.append((i, name, array, writable))
        for i in self._structs:
            values[i] = self._struct(self.parameters[i], args[i])
        try:
            self._pack_into(self._values, 0, *values)
        except _NO_NUMBER:
            raise self._unfit_number(values) from None
        return device or "cpu"

    def _unfit(self, name: str, array: Any, dtype: np.dtype) -> UserError:
        if isinstance(array, np.generic) or not hasattr(array, "strides"):
            return UserError(f"{self.where}: {name} takes an array, not {array!r}")
        if array.dtype != dtype:
            order = "" if array.dtype.isnative else " of a foreign byte order"
            return UserError(f"{self.where}: {name} takes {dtype}, not {array.dtype}{order}")
        return UserError(f"{self.where}: {name} must be contiguous")

    def _unfit_number(self, values: list) -> UserError:
        for parameter, form, value in zip(self.parameters, self._formats, values):
            try:
                struct.pack("=" + form, value)
            except _NO_NUMBER:
                return UserError(
                    f"{self.where}: {parameter.name} = {value!r} is no {parameter.type}"
                )
        raise AssertionError("each number fits")

    def _struct(self, parameter: Parameter, value: Any) -> bytes:
        if (
            not isinstance(value, ctypes.Structure)
            or type(value).__name__ != parameter.type
            or ctypes.sizeof(value) > _SLOT
        ):
            raise UserError(
                f"{self.where}: {parameter.name} takes a ctypes.Structure named {parameter.type},"
                f" of {_SLOT} bytes at most, not {value!r}; numbers are {', '.join(_SCALARS)}"
            )
        return bytes(value)


def _resolve(parameter: Parameter, dtype: np.dtype, where: str) -> Any:
    """A pointer's dtype; the letter of the struct module for what is passed by value."""
    kind = parameter.type
    if kind == "T":
        if not parameter.pointer:
            raise UserError(f"{where}: pass {parameter.name} as accum<T>, not as T")
        return dtype
    if kind == "accum<T>":
        kind = DTYPES[str(accum(dtype))]
    if parameter.pointer:
        if kind not in _SCALARS:
            raise UserError(f"{where}: a pointer to {kind} has no dtype")
        return np.dtype(_SCALARS[kind][1])
    return _SCALARS[kind][0] if kind in _SCALARS else _STRUCT
