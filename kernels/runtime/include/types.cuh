// The element types of our kernels and the types they compute in.
//
//   T        stored          accum<T>, for statistics and sums
//   float    32 bits         float
//   double   64 bits         double
//   bf16     upper 16 of a float: 8 bits of exponent, 8 of precision         float
//   fp16     IEEE half: 5 bits of exponent, 11 of precision                  float
//
// to_accum(x) widens, from_accum<T>(a) rounds to nearest even.
#pragma once

#include "ptx.cuh"

struct bf16 { unsigned short bits; };
struct fp16 { unsigned short bits; };

template <typename T> struct accum_of { using type = float; };
template <> struct accum_of<double> { using type = double; };
template <typename T> using accum = typename accum_of<T>::type;

__device__ __forceinline__ float to_accum(float x) { return x; }
__device__ __forceinline__ double to_accum(double x) { return x; }
__device__ __forceinline__ float to_accum(bf16 x) {
    return __uint_as_float((unsigned)x.bits << 16);
}
__device__ __forceinline__ float to_accum(fp16 x) { return ptx::float_from_fp16(x.bits); }

template <typename T> __device__ __forceinline__ T from_accum(accum<T> a) { return a; }
template <> __device__ __forceinline__ bf16 from_accum<bf16>(float a) {
    return bf16{ptx::bf16_from_float(a)};
}
template <> __device__ __forceinline__ fp16 from_accum<fp16>(float a) {
    return fp16{ptx::fp16_from_float(a)};
}
