"""Vector registers by name, for the matrix products that decide a training step.

LLVM vectorises a Numba loop over a row, but it does not keep a block of results in registers while
it walks the sum: `product` does, which makes it about twice as fast. Compiled code only:

    x = load(row, i)            # LANES elements of the contiguous `row`, from element i on
    x = multiply_add(a, y, x)   # a y + x, with the scalar `a` in every lane
    store(row, i, x)

No bounds are checked, as in the rest of compiled code.
"""

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic, models, register_model

from minillm.kernels.runtime.jit import jit

# One register of the widest kind; 32 bytes also suit NEON and SSE, as two registers each.
REGISTER = 64 if binding.get_host_cpu_features().get("avx512f") else 32
ROWS = 4  # `product` takes rows of `a` four at a time,
COLUMNS = 2 * REGISTER  # and bytes of a row of `b`: 8 sums, enough to hide the latency of an FMA


class _Vector(types.Type):
    """Numba type of a register full of `dtype`."""

    def __init__(self, dtype):
        self.dtype, self.lanes = dtype, REGISTER * 8 // dtype.bitwidth
        super().__init__(name=f"vector({dtype} x {self.lanes})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        element = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def _address(context, builder, array_type, array, index, vector):
    """Pointer to the vector that starts at element `index` of a contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    start = builder.gep(data, [index], inbounds=True)
    return builder.bitcast(start, context.get_value_type(vector).as_pointer())


@intrinsic
def load(typingctx, row, i):
    """The register of elements that starts at `row[i]`."""
    vector = _Vector(row.dtype)

    def generate(context, builder, signature, args):
        x = builder.load(_address(context, builder, signature.args[0], *args, vector))
        x.align = row.dtype.bitwidth // 8
        return x

    return vector(row, types.intp), generate


@intrinsic
def store(typingctx, row, i, x):
    """Write the register `x` to `row[i:]`."""

    def generate(context, builder, signature, args):
        row_value, index, value = args
        address = _address(context, builder, signature.args[0], row_value, index, x)
        builder.store(value, address).align = row.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(row, types.intp, x), generate


@intrinsic
def multiply_add(typingctx, a, y, x):
    """a y + x for a scalar `a` and registers x and y, rounded once where the CPU can."""

    def generate(context, builder, signature, args):
        kind = context.get_value_type(x)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), x.lanes), None)
        first = builder.insert_element(
            ir.Constant(kind, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0)
        )
        every = builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)
        flags = ("contract",)
        return builder.fadd(builder.fmul(every, args[1], flags=flags), args[2], flags=flags)

    return x(x.dtype, x, x), generate


@jit
def product(c, a, b):
    """c += a b, for c (R, N), a (R, K), b (K, N) with R a multiple of ROWS and N of COLUMNS bytes.

    Rows of b and c must be contiguous; a may be strided or transposed.
    """
    R, N = c.shape
    K = b.shape[0]
    lanes = REGISTER // c.itemsize
    for r in range(0, R, 4):
        a0, a1, a2, a3 = a[r], a[r + 1], a[r + 2], a[r + 3]
        c0, c1, c2, c3 = c[r], c[r + 1], c[r + 2], c[r + 3]
        for n in range(0, N, 2 * lanes):
            m = n + lanes
            x0, x1, x2, x3 = load(c0, n), load(c1, n), load(c2, n), load(c3, n)
            y0, y1, y2, y3 = load(c0, m), load(c1, m), load(c2, m), load(c3, m)
            for k in range(K):
                left, right = load(b[k], n), load(b[k], m)
                x0, y0 = multiply_add(a0[k], left, x0), multiply_add(a0[k], right, y0)
                x1, y1 = multiply_add(a1[k], left, x1), multiply_add(a1[k], right, y1)
                x2, y2 = multiply_add(a2[k], left, x2), multiply_add(a2[k], right, y2)
                x3, y3 = multiply_add(a3[k], left, x3), multiply_add(a3[k], right, y3)
            store(c0, n, x0)
            store(c1, n, x1)
            store(c2, n, x2)
            store(c3, n, x3)
            store(c0, m, y0)
            store(c1, m, y1)
            store(c2, m, y2)
            store(c3, m, y3)
