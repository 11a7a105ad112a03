// The one header with inline PTX. Each function has two bodies: the instruction for the GPU, and
// the same in plain C++ for the emulator.
#pragma once

namespace ptx {

#ifndef MINILLM_EMULATOR

__device__ __forceinline__ unsigned short bf16_from_float(float x) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// Two at once: `low` in the lower 16 bits, `high` in the upper.
__device__ __forceinline__ unsigned bf16x2_from_floats(float low, float high) {
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

__device__ __forceinline__ unsigned short fp16_from_float(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ float float_from_fp16(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// 2^x to 2 units in the last place, in one instruction; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x to 1 unit in the last place, in one instruction; 0 from 2^126 on.
__device__ __forceinline__ float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Copies 16 aligned bytes of global memory to shared memory, past the registers and the first-level
// cache, while the thread goes on. What was begun since the last commit is a group; the thread that
// began a copy may read it after it has waited until at most LATER of its newer groups are left.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global) : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LATER>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(LATER) : "memory");
}

#else

inline unsigned short bf16_from_float(float x) {
    unsigned u = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

inline unsigned bf16x2_from_floats(float low, float high) {
    return bf16_from_float(low) | (unsigned)bf16_from_float(high) << 16;
}

inline unsigned short fp16_from_float(float x) {
    unsigned u = __float_as_uint(x), sign = u >> 16 & 0x8000, size = u & 0x7fffffff;
    if (x != x) return 0x7fff;
    if (size >= 0x477ff000) return (unsigned short)(sign | 0x7c00);  // rounds to 65536 or more
    if (size < 0x38800000) {                                        // subnormal: steps of 2^-24
        float steps = __uint_as_float(size) * 16777216.0f;
        return (unsigned short)(sign | (unsigned)rint(steps));
    }
    return (unsigned short)(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
}

inline float float_from_fp16(unsigned short bits) {
    unsigned sign = (bits & 0x8000u) << 16, size = bits & 0x7fffu;
    float x = size >= 0x7c00 ? __uint_as_float(0x7f800000 | (size & 0x3ff) << 13)
            : size >= 0x0400 ? __uint_as_float((size << 13) + 0x38000000)
                             : (float)size / 16777216.0f;
    return __uint_as_float(__float_as_uint(x) | sign);
}

inline float exp2_fast(float x) {
    float y = exp2(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}

inline float reciprocal_fast(float x) {
    float y = 1.0f / x;
    return fabs(y) < 1.17549435e-38f ? 0.0f : y;
}

// Done as late as the program allows, in the wait for it: touching the place before is a fault.
__attribute__((always_inline)) inline void copy_async_16(void* shared, const void* global) {
    emu_copy_async(shared, global, 16, emu::here());
}
inline void copy_async_commit() { emu_copy_commit(); }
template <int LATER> inline void copy_async_wait() { emu_copy_wait(LATER); }

#endif

}  // namespace ptx
