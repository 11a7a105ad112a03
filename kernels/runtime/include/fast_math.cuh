// e^x, 1 / x and the logistic function by the hardware's approximations in float, by the library's
// functions in double. For kernels that wait for memory only as long as they have few instructions:
// fast_exp has 2 where expf has 8, reciprocal 1 where a division has 8 and a branch.
#pragma once

#include "ptx.cuh"

// e^x = 2^(x log2 e). MUFU.EX2 is good to 2 units in the last place; rounding x log2 e adds a
// relative error of |x| 2^-24: 5e-6 at x = -87, below which the result is 0.
__device__ __forceinline__ float fast_exp(float x) {
    return ptx::exp2_fast(x * 1.4426950408889634f);
}
__device__ __forceinline__ double fast_exp(double x) { return exp(x); }

__device__ __forceinline__ float reciprocal(float x) { return ptx::reciprocal_fast(x); }
__device__ __forceinline__ double reciprocal(double x) { return 1.0 / x; }

// 1 / (1 + e^-x).
template <typename A>
__device__ __forceinline__ A sigmoid(A x) {
    return reciprocal(1 + fast_exp(-x));
}
