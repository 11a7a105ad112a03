// CUDA's mathematical functions on the emulator: the C library's, overloaded for float and double
// as CUDA overloads them, and the intrinsics (fast approximations there, correctly rounded here).
#pragma once

#define EMU_MATH_1(NAME) \
    extern "C" double NAME(double); \
    extern "C" float NAME##f(float); \
    inline float NAME(float x) { return NAME##f(x); }
EMU_MATH_1(exp)
EMU_MATH_1(exp2)
EMU_MATH_1(log)
EMU_MATH_1(log2)
EMU_MATH_1(log1p)
EMU_MATH_1(expm1)
EMU_MATH_1(sqrt)
EMU_MATH_1(tanh)
EMU_MATH_1(erf)
EMU_MATH_1(erfc)
EMU_MATH_1(sin)
EMU_MATH_1(cos)
EMU_MATH_1(fabs)
EMU_MATH_1(floor)
EMU_MATH_1(ceil)
EMU_MATH_1(rint)
EMU_MATH_1(trunc)
EMU_MATH_1(round)
EMU_MATH_1(log10)
#define EMU_MATH_2(NAME) \
    extern "C" double NAME(double, double); \
    extern "C" float NAME##f(float, float); \
    inline float NAME(float x, float y) { return NAME##f(x, y); }
EMU_MATH_2(pow)
EMU_MATH_2(fmax)
EMU_MATH_2(fmin)
EMU_MATH_2(fmod)
EMU_MATH_2(copysign)
extern "C" double fma(double, double, double);
extern "C" float fmaf(float, float, float);
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float abs(float x) { return fabsf(x); }
inline double abs(double x) { return fabs(x); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline long long abs(long long x) { return x < 0 ? -x : x; }
inline bool isnan(float x) { return x != x; }
inline bool isnan(double x) { return x != x; }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }

inline float max(float x, float y) { return fmaxf(x, y); }
inline float min(float x, float y) { return fminf(x, y); }
inline double max(double x, double y) { return fmax(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
#define EMU_INTEGER(T) \
    inline T max(T x, T y) { return x < y ? y : x; } \
    inline T min(T x, T y) { return y < x ? y : x; }
EMU_INTEGER(int)
EMU_INTEGER(unsigned)
EMU_INTEGER(long)
EMU_INTEGER(long long)
EMU_INTEGER(unsigned long)
EMU_INTEGER(unsigned long long)

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }

inline unsigned __umulhi(unsigned x, unsigned y) {
    return (unsigned)((unsigned long long)x * y >> 32);
}
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}

namespace emu {
template <typename To, typename From>
inline To bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
}  // namespace emu

inline unsigned __float_as_uint(float x) { return emu::bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emu::bits<float>(x); }
inline int __float_as_int(float x) { return emu::bits<int>(x); }
inline float __int_as_float(int x) { return emu::bits<float>(x); }
inline long long __double_as_longlong(double x) { return emu::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emu::bits<double>(x); }
