"""The stand-in's array: host memory behind CuPy's interface, and nothing that CuPy does not offer.

In come NumPy arrays, by `adopt` alone; out by `get`. Each wait for a GPU counts in `waits`.
"""

import numpy as np

waits = [0]  # how often the program waited for the GPU
_NUMBERS = (bool, int, float, complex, np.generic)


def wait() -> None:
    """Called wherever CuPy has to wait until the GPU is done."""
    waits[0] += 1


def adopt(host: np.ndarray) -> "ndarray":
    """A copy of `host` in "GPU memory": blocks begin at multiples of 512 bytes, as CuPy's do."""
    if host.dtype.kind in "OSUMm":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    block = np.empty(host.nbytes + 512, np.uint8)
    start = -block.ctypes.data % 512
    order = "F" if host.flags.f_contiguous and not host.flags.c_contiguous else "C"
    memory = np.ndarray(host.shape, host.dtype, memoryview(block), start, order=order)
    memory[...] = host
    return _new(memory, None)


def _new(memory: np.ndarray, base: "ndarray | None") -> "ndarray":
    array = object.__new__(ndarray)
    array._memory, array.base = memory, base
    return array


def _view(source: "ndarray", memory: np.ndarray) -> "ndarray":
    """`memory` as a view of `source`, or as an array of its own where NumPy had to copy."""
    if _block(memory) is not _block(source._memory):
        return adopt(memory)
    return _new(memory, source if source.base is None else source.base)


def _block(memory: np.ndarray) -> np.ndarray:
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    return memory


def operand(x: object) -> object:
    """What NumPy computes with in the place of an operand; host arrays are refused."""
    if isinstance(x, ndarray):
        return x._memory
    if isinstance(x, _NUMBERS):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def memory_of(x: object) -> np.ndarray:
    """The memory of an array; anything else is refused."""
    if not isinstance(x, ndarray):
        raise TypeError(
            "Argument 'a' has incorrect type (expected cupy._core.core._ndarray_base, got"
            f" {type(x).__name__})"
        )
    return x._memory


def destination(out: object) -> np.ndarray | None:
    """The memory of an `out` argument."""
    if out is not None and not isinstance(out, ndarray):
        raise TypeError("Output arguments type must be cupy.ndarray")
    return None if out is None else out._memory


def finish(result: object, out: "ndarray | None" = None) -> "ndarray":
    """What a computation returns: `out`, or a new array, 0-d where NumPy has a scalar."""
    return adopt(np.asarray(result)) if out is None else out


class _Pointer:
    """cupy.cuda.MemoryPointer: the address and where it is."""

    def __init__(self, ptr: int):
        self.ptr, self.device_id = ptr, 0


class _Flags:
    """Which layouts the array has; there are no read-only arrays on a GPU."""

    __slots__ = ("c_contiguous", "f_contiguous", "owndata")

    def __init__(self, memory: np.ndarray, owndata: bool):
        self.c_contiguous, self.f_contiguous = memory.flags.c_contiguous, memory.flags.f_contiguous
        self.owndata = owndata


class ndarray:
    """An array "on the GPU". Methods are CuPy's, by its signatures; those not used are missing."""

    __slots__ = ("_memory", "base", "__weakref__")
    __array_priority__ = 100
    __hash__ = None

    shape = property(lambda self: self._memory.shape)
    strides = property(lambda self: self._memory.strides)
    dtype = property(lambda self: self._memory.dtype)
    ndim = property(lambda self: self._memory.ndim)
    size = property(lambda self: self._memory.size)
    itemsize = property(lambda self: self._memory.itemsize)
    nbytes = property(lambda self: self._memory.nbytes)
    data = property(lambda self: _Pointer(self._memory.ctypes.data))
    flags = property(lambda self: _Flags(self._memory, self.base is None))
    T = property(lambda self: self.transpose())

    @property
    def __cuda_array_interface__(self) -> dict:
        strides = None if self.flags.c_contiguous else self.strides
        return {"shape": self.shape, "typestr": self.dtype.str, "descr": self.dtype.descr,
                "stream": 1, "version": 3, "strides": strides,
                "data": (self.data.ptr if self.size else 0, False)}  # fmt: skip

    # --- to the host ------------------------------------------------------------------------------

    def __array__(self, dtype=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def get(self, stream=None, order="C", out=None, blocking=True):
        if out is None:
            wait()
            return self._memory.copy(order)
        if out.dtype != self.dtype or out.shape != self.shape:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        if blocking:
            wait()
            out[...] = self._memory
        else:
            stream.copy("get", out, self._memory)
        return out

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        if stream is None:
            self._memory[...] = arr
        else:
            stream.copy("set", arr, self._memory)

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __repr__(self):
        return repr(self.get())

    def __format__(self, spec):
        return format(self.get(), spec)

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return len(self._memory)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    # --- views and copies -------------------------------------------------------------------------

    def reshape(self, *shape, order="C", copy=None):
        return _view(self, self._memory.reshape(*shape, order=order))

    def transpose(self, *axes):
        return _view(self, self._memory.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return _view(self, self._memory.swapaxes(axis1, axis2))

    def squeeze(self, axis=None):
        return _view(self, self._memory.squeeze(axis))

    def ravel(self, order="C"):
        return _view(self, self._memory.ravel(order))

    def view(self, dtype=None, type=None):
        return _view(self, self._memory.view(self.dtype if dtype is None else dtype))

    def copy(self, order="C"):
        return adopt(self._memory.copy(order))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if casting is not None or subok is not None:
            raise TypeError("casting is not supported yet")
        if self.dtype == dtype and not copy:
            return self
        return adopt(self._memory.astype(dtype, order))

    # --- reductions: arrays of 0 dimensions where NumPy returns scalars ---------------------------

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        result = self._memory.sum(axis, dtype, destination(out), keepdims=keepdims)
        return finish(result, out)

    def mean(self, axis=None, dtype=None, out=None, keepdims=False):
        result = self._memory.mean(axis, dtype, destination(out), keepdims=keepdims)
        return finish(result, out)

    def max(self, axis=None, out=None, keepdims=False):
        return finish(self._memory.max(axis, destination(out), keepdims=keepdims), out)

    def min(self, axis=None, out=None, keepdims=False):
        return finish(self._memory.min(axis, destination(out), keepdims=keepdims), out)

    def any(self, axis=None, out=None, keepdims=False):
        return finish(self._memory.any(axis, destination(out), keepdims=keepdims), out)

    def all(self, axis=None, out=None, keepdims=False):
        return finish(self._memory.all(axis, destination(out), keepdims=keepdims), out)

    def argmax(self, axis=None, out=None, dtype=None, keepdims=False):
        return finish(self._memory.argmax(axis, destination(out), keepdims=keepdims), out)

    def argmin(self, axis=None, out=None, dtype=None, keepdims=False):
        return finish(self._memory.argmin(axis, destination(out), keepdims=keepdims), out)

    def cumsum(self, axis=None, dtype=None, out=None):
        return finish(self._memory.cumsum(axis, dtype, destination(out)), out)

    # --- elements ---------------------------------------------------------------------------------

    def repeat(self, repeats, axis=None):
        return finish(self._memory.repeat(repeats, axis))

    def take(self, indices, axis=None, out=None):
        return finish(np.take(self._memory, operand(indices), axis, destination(out), "wrap"), out)

    def argsort(self, axis=-1, kind=None):
        if kind not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")
        return finish(self._memory.argsort(axis, kind="stable"))

    def nonzero(self):
        wait()
        return tuple(map(finish, self._memory.nonzero()))

    def fill(self, value):
        self._memory.fill(operand(value))

    def _key(self, key):
        """NumPy's key of the same elements; integer arrays out of range wrap around."""
        items = key if isinstance(key, tuple) else (key,)
        named = sum(_axes(item) for item in items)
        translated, axis = [], 0
        for item in items:
            if isinstance(item, ndarray) and item.dtype.kind in "iu":
                translated.append(item._memory % max(self.shape[axis], 1))
            elif isinstance(item, ndarray):
                wait()  # for how many are true
                translated.append(item._memory)
            elif item is None or item is Ellipsis or isinstance(item, int | np.integer | slice):
                translated.append(item)
            else:
                raise TypeError(f"an index that would be copied to the GPU unsaid: {type(item)}")
            axis += self.ndim - named if item is Ellipsis else _axes(item)
        whole = any(item is Ellipsis for item in items)
        return tuple(translated) if whole else (*translated, Ellipsis)

    def __getitem__(self, key):
        return _view(self, self._memory[self._key(key)])

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        at, items = self._key(key), key if isinstance(key, tuple) else (key,)
        if any(isinstance(item, ndarray) and item.dtype.kind in "iu" for item in items):
            touched = np.arange(self.size).reshape(self.shape)[at]
            if len(np.unique(touched)) < touched.size:
                raise AssertionError("an element is written twice: on a GPU in any order")
        self._memory[at] = operand(value)


def _axes(item: object) -> int:
    """How many dimensions an item of a key speaks of."""
    if item is None or item is Ellipsis:
        return 0
    return item.ndim if isinstance(item, ndarray) and item.dtype.kind == "b" else 1
