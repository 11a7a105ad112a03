"""What `cuda.threadIdx.x`, `x[i]`, `cuda.syncthreads()` become on the CPU: calls of the emulator.

What comes in: operands of a rewritten kernel (numba_rewrite.py). What goes out: LLVM code that
calls the C functions of emulator/runtime.h by name; numba_fibers.py tells LLVM where they are.
Each access of an array is first checked against its shape, then announced to the emulator, which
looks for races. `site` is a number that stands for a place in the source.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import int32, types
from numba.core import cgutils
from numba.core.datamodel import default_manager
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.arrayobj import load_item, populate_array, store_item

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_POINTER = _I8.as_pointer()
_READ, _WRITE, _ATOMIC = range(3)


def _call(builder, name, result, *args, variadic=False):
    """Call the C function `name`, declared as its arguments say."""
    kind = ir.FunctionType(result, [a.type for a in args[: 3 if variadic else None]], variadic)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def argument(kind, position):
    """The intrinsic `f(args)`: argument `position` of a launch, of the Numba type `kind`."""

    @intrinsic
    def get(typingctx, args):
        def generate(context, builder, signature, values):
            address = builder.load(builder.gep(values[0], [ir.Constant(_I64, position)]))
            model = default_manager[kind]
            place = builder.bitcast(address, model.get_data_type().as_pointer())
            return model.load_from_data_pointer(builder, place, 8)

        return kind(args), generate

    return get


def index(what):
    """The intrinsic `f()`: threadIdx, blockIdx, blockDim or gridDim, as emu_index numbers them."""

    @intrinsic
    def get(typingctx):
        def generate(context, builder, signature, values):
            return _call(builder, "emu_index", _I32, ir.Constant(_I32, what))

        return int32(), generate

    return get


@intrinsic
def syncthreads(typingctx, site):
    def generate(context, builder, signature, values):
        _call(builder, "emu_syncthreads", ir.VoidType(), builder.trunc(values[0], _I32))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def syncwarp(typingctx, mask, site):
    def generate(context, builder, signature, values):
        mask, site = (builder.trunc(v, _I32) for v in values)
        _call(builder, "emu_syncwarp", ir.VoidType(), mask, site)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def ballot(typingctx, mask, predicate, site):
    def generate(context, builder, signature, values):
        mask, site = (builder.trunc(v, _I32) for v in values[::2])
        return _call(builder, "emu_ballot", _I32, mask, builder.zext(values[1], _I32), site)

    return types.uint32(types.int64, types.boolean, types.int64), generate


def shuffle(kind):
    """The intrinsic `f(mask, value, lane, site)`: 0 from a lane, 1 up, 2 down, 3 xor."""

    @intrinsic
    def get(typingctx, mask, value, lane, site):
        def generate(context, builder, signature, values):
            mask, lane, site = (builder.trunc(values[i], _I32) for i in (0, 2, 3))
            plain = ir.IntType(value.bitwidth)
            bits = builder.zext(builder.bitcast(values[1], plain), _I64)
            width, which = ir.Constant(_I32, 32), ir.Constant(_I32, kind)
            got = _call(builder, "emu_shuffle", _I64, which, mask, bits, lane, width, site)
            return builder.bitcast(builder.trunc(got, plain), values[1].type)

        if not isinstance(value, types.Integer | types.Float):
            return None
        return value(types.int64, value, types.int64, types.int64), generate

    return get


def _array(context, builder, kind, shape, data):
    """An array of constant `shape`, contiguous, over memory at `data`."""
    made = context.make_array(kind)(context, builder)
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [size * int(np.prod(shape[d + 1 :])) for d in range(len(shape))]
    populate_array(
        made,
        data=builder.bitcast(data, made.data.type),
        shape=[ir.Constant(_I64, extent) for extent in shape],
        strides=[ir.Constant(_I64, stride) for stride in strides],
        itemsize=ir.Constant(_I64, size),
        meminfo=None,
    )
    return made._getvalue()


def shared_array(shape, dtype, name, site):
    """The intrinsic `f()`: the block's array of this declaration."""
    kind = types.Array(dtype, len(shape), "C")

    @intrinsic
    def get(typingctx):
        def generate(context, builder, signature, values):
            size = context.get_abi_sizeof(context.get_data_type(dtype)) * int(np.prod(shape))
            key = builder.inttoptr(ir.Constant(_I64, site), _POINTER)
            size, align = ir.Constant(_I64, size), ir.Constant(_I64, 16)
            text = context.insert_const_string(builder.module, name)
            line = ir.Constant(_I32, site)
            data = _call(builder, "emu_shared", _POINTER, key, size, align, text, line)
            return _array(context, builder, kind, shape, data)

        return kind(), generate

    return get


def local_array(shape, dtype):
    """The intrinsic `f()`: an array of the thread's own."""
    kind = types.Array(dtype, len(shape), "C")

    @intrinsic
    def get(typingctx):
        def generate(context, builder, signature, values):
            element = context.get_data_type(dtype)
            data = cgutils.alloca_once(builder, element, ir.Constant(_I64, int(np.prod(shape))))
            return _array(context, builder, kind, shape, data)

        return kind(), generate

    return get


def _outside(module):
    """The C-like function that reports an index: `(site, index, dimension, extent)`."""
    kind = ir.FunctionType(ir.VoidType(), [_I64] * 4)
    function = cgutils.get_or_insert_function(module, kind, "minillm_outside")
    if function.is_declaration:
        function.linkage = "linkonce_odr"
        builder = ir.IRBuilder(function.append_basic_block())
        text = b"out of bounds: index %lld of dimension %lld, which has %lld elements\0"
        form = cgutils.global_constant(module, ".minillm_outside", cgutils.make_bytearray(text))
        buffer = builder.alloca(ir.ArrayType(_I8, 160))
        buffer, form = (builder.bitcast(p, _POINTER) for p in (buffer, form))
        length = ir.Constant(_I64, 160)
        site, *numbers = function.args
        _call(builder, "snprintf", _I32, buffer, length, form, *numbers, variadic=True)
        _call(builder, "emu_trap", ir.VoidType(), buffer, builder.trunc(site, _I32))
        builder.ret_void()  # never reached: the thread does not come back from emu_trap
    return function


def _element(context, builder, kind, array, index_kind, index, site, access):
    """Address of an element, its indices checked and the access announced."""
    single = isinstance(index_kind, types.Integer)
    indices = [index] if single else cgutils.unpack_tuple(builder, index)
    kinds = [index_kind] if single else index_kind.types
    array = context.make_array(kind)(context, builder, array)
    address = builder.bitcast(array.data, _POINTER)
    extents = cgutils.unpack_tuple(builder, array.shape, kind.ndim)
    strides = cgutils.unpack_tuple(builder, array.strides, kind.ndim)
    for d, (i, i_kind) in enumerate(zip(indices, kinds)):
        i = context.cast(builder, i, i_kind, types.int64)
        outside = builder.icmp_unsigned(">=", i, extents[d])  # a negative index is a huge one
        with builder.if_then(outside, likely=False):
            dimension = ir.Constant(_I64, d)
            builder.call(_outside(builder.module), [site, i, dimension, extents[d]])
        address = builder.gep(address, [builder.mul(i, strides[d])])
    size = ir.Constant(_I64, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    place = builder.inttoptr(site, _POINTER)
    which = ir.Constant(_I32, access)
    _call(builder, "emu_access", ir.VoidType(), address, size, which, place)
    return builder.bitcast(address, array.data.type)


def _check_element(array, index):
    """Raise what Numba shows with the line, unless `index` names one element of `array`."""
    kinds = index.types if isinstance(index, types.BaseTuple) else (index,)
    if not isinstance(array, types.Array):
        raise TypingError(f"kernels index arrays and x.shape, not {array}")
    if len(kinds) != array.ndim or not all(isinstance(k, types.Integer) for k in kinds):
        wanted = f"{array.ndim} integers, one a dimension"
        raise TypingError(f"kernels take single elements: index this array by {wanted}")


@intrinsic
def load(typingctx, array, index, site):
    """`array[index]`, read."""

    def generate(context, builder, signature, values):
        at = _element(context, builder, array, values[0], index, *values[1:], _READ)
        return load_item(context, builder, array, at)

    _check_element(array, index)
    return array.dtype(array, index, types.int64), generate


@intrinsic
def store(typingctx, array, index, value, site):
    """`array[index] = value`."""

    def generate(context, builder, signature, values):
        array_value, index_value, new, place = values
        at = _element(context, builder, array, array_value, index, index_value, place, _WRITE)
        store_item(context, builder, array, new, at)
        return context.get_dummy_value()

    _check_element(array, index)
    return types.void(array, index, array.dtype, types.int64), generate


@intrinsic
def atomic_add(typingctx, array, index, value, site):
    """`array[index] += value`, and what was there before. Fibers take turns: no lock is needed."""

    def generate(context, builder, signature, values):
        array_value, index_value, new, place = values
        at = _element(context, builder, array, array_value, index, index_value, place, _ATOMIC)
        old = load_item(context, builder, array, at)
        add = context.get_function(operator.add, array.dtype(array.dtype, array.dtype))
        store_item(context, builder, array, add(builder, (old, new)), at)
        return old

    _check_element(array, index)
    return array.dtype(array, index, array.dtype, types.int64), generate
