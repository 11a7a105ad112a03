"""exp and its relatives that LLVM can vectorise: math.exp in a Numba loop is a scalar library call.

Scalars in, scalars out (`amax`: a row in), float32 or float64; called inside `jit` loops, where
they are inlined. They hold to a few units in the last place over the whole range, infinities and
NaN included. None branches: both sides of a choice are computed and one is selected, as vector code
must.

Every name here is written once, by `build(dtype)`, for both precisions. Coefficients not taken from
a source named beside them are minimax polynomials (Remez exchange in 60 digits, relative error).
"""

from math import factorial

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from minillm.kernels.runtime.jit import EXACT, jit_exact


@intrinsic
def _to_float(typingctx, bits):
    """The float32 or float64 whose bit pattern is the int32 or int64 `bits`."""
    float_type = types.float32 if bits == types.int32 else types.float64
    ll = ir.FloatType() if bits == types.int32 else ir.DoubleType()
    return float_type(bits), lambda context, builder, sig, args: builder.bitcast(args[0], ll)


@intrinsic
def _to_bits(typingctx, x):
    """The bit pattern of a float32 or float64, as int32 or int64."""
    int_type = types.int32 if x == types.float32 else types.int64
    ll = ir.IntType(int_type.bitwidth)
    return int_type(x), lambda context, builder, sig, args: builder.bitcast(args[0], ll)


def _polynomial(*coefficients):
    """x -> c[0] + c[1] x + c[2] x^2 + ... for compiled code, by Horner's rule in x's precision."""
    highest, *rest = reversed([float(c) for c in coefficients])

    @intrinsic
    def evaluate(typingctx, x):
        def generate(context, builder, signature, args):
            ll = context.get_value_type(x)
            total = ir.Constant(ll, highest)
            for c in rest:
                product = builder.fmul(total, args[0], flags=("contract",))
                total = builder.fadd(product, ir.Constant(ll, c), flags=("contract",))
            return total

        return x(x), generate

    return evaluate


def _for_both(build):
    """A function for compiled code, from `build(dtype)`, which compiles it for one precision."""
    compiled = {types.float32: build(np.float32), types.float64: build(np.float64)}

    def function(x):
        raise TypeError(f"vmath.{build.__name__[1:]} is for compiled code only")

    @overload(function, jit_options=EXACT)
    def _typed(x):
        of_type = compiled.get(getattr(x, "dtype", x))
        return None if of_type is None else lambda x: of_type(x)

    function.__doc__ = build.__doc__
    return function


def _exp(dtype):
    """e^x.

    2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2 (Cody & Waite 1980). ln 2 is split in two, the
    first part with so few bits that n times it is exact; 2^n is written into the exponent's bits.
    """
    if dtype is np.float32:  # splits of ln 2 and p: Cephes expf (Moshier), Taylor series
        integer, mantissa, bias, least, most = np.int32, 23, 127, -104.0, 89.0
        high, low = 0.693359375, -2.12194440e-4
        p = _polynomial(  # e^r = 1 + r + r^2 p(r)
            0.5, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4
        )
    else:
        integer, mantissa, bias, least, most = np.int64, 52, 1023, -746.0, 710.0
        high, low = 6.93145751953125e-1, 1.42860682030941723212e-6
        p = _polynomial(*(1 / factorial(k) for k in range(2, 14)))
    magic = dtype(1.5 * 2.0**mantissa)  # x + magic - magic is x rounded to an integer
    magic_bits, mantissa, bias = magic.view(integer), integer(mantissa), integer(bias)
    log2e, high, low, one = dtype(1 / np.log(2)), dtype(high), dtype(low), dtype(1)
    least, most, first_bit = dtype(least), dtype(most), integer(1)  # e^least = 0, e^most = inf

    @jit_exact
    def exp(x):
        x = least if x < least else x  # written so that NaN passes
        x = most if x > most else x
        shifted = x * log2e + magic
        power = integer(_to_bits(shifted) - magic_bits)  # n, as an integer
        n = shifted - magic
        r = x - n * high - n * low
        e = p(r) * (r * r) + r + one
        half = integer(power >> first_bit)  # in two steps: 2^128 and 2^-149 are out of one's reach
        rest = integer(power - half)
        scale = _to_float(integer(integer(half + bias) << mantissa))
        return e * scale * _to_float(integer(integer(rest + bias) << mantissa))

    return exp


exp = _for_both(_exp)


def _sigmoid(dtype):
    """1 / (1 + e^-x). Results below the smallest normal number are 0."""
    one = dtype(1)

    @jit_exact
    def sigmoid(x):
        return one / (one + exp(-x))

    return sigmoid


sigmoid = _for_both(_sigmoid)


def _tanh(dtype):
    """Hyperbolic tangent: an odd polynomial below 5/8, 1 - 2 / (e^2|x| + 1) above."""
    p = _polynomial(-0.3333328, 0.13331443, -0.05373981, 0.020639313, -0.0057051694)
    if dtype is np.float64:
        p = _polynomial(
            *(-0.33333333333332854, 0.13333333333262096, -0.05396825393126854),
            *(0.02186948757610746, -0.008863221002754924, 0.0035919891746006407),
            *(-0.001454958881262684, 0.0005863165492440447, -0.00022856422626234748),
            *(7.714438122116994e-05, -1.6072575721702314e-05),
        )
    zero, one, two, border = dtype(0), dtype(1), dtype(2), dtype(0.625)

    @jit_exact
    def tanh(x):
        size = abs(x)
        z = x * x
        near = x + x * (z * p(z))
        far = one - two / (exp(size + size) + one)
        far = -far if x < zero else far
        return near if size < border else far

    return tanh


tanh = _for_both(_tanh)


def _erfcx(dtype):
    """e^(x^2) erfc(x) for x >= 0: the slowly falling part of the normal distribution's tail.

    t p(t) with t = 1 / (1 + 3 x / 8), where 3/8 needs the shortest p (the substitution: Hastings
    1955). Fitted up to where erfc underflows.
    """
    p = _polynomial(
        *(0.21161282, 0.21066095, 0.20523144, 0.12183264, 0.27293608),
        *(-0.22824027, 0.43134308, -0.28680366, 0.06142693),
    )
    if dtype is np.float64:
        p = _polynomial(
            *(0.21157109382501282, 0.21157109419961403, 0.19669498995199303, 0.16694302263502914),
            *(0.12545000420616526, 0.0785196524627696, 0.034290320504686354, 0.001564602888082938),
            *(-0.015074225381319455, -0.027213345417806768, 0.05775059106869555),
            *(-0.24334174065565586, 0.7140251751820889, -1.5097701786904762, 2.4966354819345944),
            *(-3.1461710331559494, 2.9266555582227873, -1.9682869734413007, 0.9328747180853402),
            *(-0.296730712315203, 0.057077089072808534, -0.00503518518195713),
        )
    one, slope = dtype(1), dtype(0.375)

    @jit_exact
    def erfcx(x):
        t = one / (one + slope * x)
        return t * p(t)

    return erfcx


erfcx = _for_both(_erfcx)


def _erf(dtype):
    """Error function: an odd polynomial below 1, 1 - e^(-x^2) erfcx(|x|) above."""
    p = _polynomial(0.12837912, -0.37612325, 0.11280181, -0.026711328, 0.004917558, -0.00056314125)
    if dtype is np.float64:
        p = _polynomial(
            *(0.12837916709551256, -0.3761263890318352, 0.112837916709442, -0.026866170643113415),
            *(0.005223977606130842, -0.0008548325929766244, 0.0001205529358693695),
            *(-1.4924712439534814e-05, 1.6447132699786621e-06, -1.6206318752969208e-07),
            *(1.3710988704190523e-08, -7.779462971761597e-10),
        )
    zero, one = dtype(0), dtype(1)

    @jit_exact
    def erf(x):
        size, z = abs(x), x * x
        near = x + x * p(z)
        far = one - exp(-z) * erfcx(size)
        far = -far if x < zero else far
        return near if size < one else far

    return erf


erf = _for_both(_erf)


def _amax(dtype):
    """Largest element of a row (n,), n >= 1; NaN or the largest number if it holds a NaN.

    Compared as integers, since LLVM does not vectorise a maximum that a NaN may enter.
    """
    integer = np.int32 if dtype is np.float32 else np.int64
    sign_shift = integer(8 * integer(0).nbytes - 1)
    lowest, magnitude = integer(np.iinfo(integer).min), integer(np.iinfo(integer).max)

    @jit_exact
    def ordered(bits):  # integers that sort like the floats; its own inverse
        return integer(bits ^ integer(integer(bits >> sign_shift) & magnitude))

    @jit_exact
    def amax(row):
        largest = lowest
        for i in range(row.size):
            key = ordered(_to_bits(row[i]))
            largest = key if key > largest else largest
        return _to_float(ordered(largest))

    return amax


amax = _for_both(_amax)
