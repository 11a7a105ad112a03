// What a .cu file sees in the place of CUDA's built-ins when g++ compiles it for the emulator: the
// qualifiers, indices, vector types, barriers, warp operations, atomics and mathematical functions.
// The loader (build.py) puts this first and rewrites `__shared__` declarations to emu::shared.
#pragma once

#include "runtime.h"

#define MINILLM_EMULATOR 1
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(N) alignas(N)

typedef unsigned int uint;
typedef unsigned long size_t;

namespace emu {

struct Index { unsigned x, y, z; };

template <typename T>
inline T& shared(const void* key, long align, const char* name, int line) {
    if (align < (long)alignof(T)) align = alignof(T);
    return *reinterpret_cast<T*>(emu_shared(key, sizeof(T), align, name, line));
}

// An access that is not a plain load or store, told to the runtime with the caller's own address.
#define EMU_HERE __builtin_extract_return_addr(__builtin_return_address(0))
static __attribute__((noinline, unused)) const void* here() { return EMU_HERE; }

template <int... I> struct Sequence {};

// Calls a kernel with arguments from an array of pointers, as cudaLaunchKernel does.
template <typename... A, int... I>
__attribute__((no_sanitize("thread"), noipa))  // its own reads are no business of the kernel's
void call(void (*kernel)(A...), void** args, Sequence<I...>) {
    kernel(*static_cast<A*>(args[I])...);
}
template <typename... A>
inline void call(void (*kernel)(A...), void** args) {
    call(kernel, args, Sequence<__integer_pack(sizeof...(A))...>{});
}

}  // namespace emu

#define threadIdx (emu::Index{emu_index(0), emu_index(1), emu_index(2)})
#define blockIdx (emu::Index{emu_index(3), emu_index(4), emu_index(5)})
#define blockDim (emu::Index{emu_index(6), emu_index(7), emu_index(8)})
#define gridDim (emu::Index{emu_index(9), emu_index(10), emu_index(11)})
static const int warpSize = 32;

extern "C" int printf(const char*, ...);

// The compiler announces copies of a vector's size, which are loads and stores to it, but no calls.
#define memcpy(TO, FROM, BYTES) emu::copy(TO, FROM, BYTES)
#define memset(TO, BYTE, BYTES) emu::fill(TO, BYTE, BYTES)
namespace emu {
__attribute__((always_inline)) inline void copy(void* to, const void* from, size_t bytes) {
    if (__builtin_constant_p(bytes) && bytes <= 16 && !(bytes & (bytes - 1))) {
        __builtin_memcpy(to, from, bytes);
        return;
    }
    emu_access_range(from, bytes, EMU_READ, here());
    emu_access_range(to, bytes, EMU_WRITE, here());
    emu_copy(to, from, bytes);
}
__attribute__((always_inline)) inline void fill(void* to, int byte, size_t bytes) {
    emu_access_range(to, bytes, EMU_WRITE, here());
    emu_fill(to, byte, bytes);
}
}  // namespace emu

#include "cuda_math.h"
#include "cuda_vectors.h"

// ---------------------------------------------------------------- barriers and warps

inline void __syncthreads(int line = __builtin_LINE()) { emu_syncthreads(line); }
inline int __syncthreads_count(int p, int line = __builtin_LINE()) {
    return emu_syncthreads_count(p, line);
}
inline int __syncthreads_or(int p, int line = __builtin_LINE()) {
    return emu_syncthreads_count(p, line) > 0;
}
inline int __syncthreads_and(int p, int line = __builtin_LINE()) {
    return emu_syncthreads_count(!p, line) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) {
    emu_syncwarp(mask, line);
}
inline unsigned __activemask() { return emu_activemask(); }
inline unsigned __ballot_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return emu_ballot(mask, p, line);
}
inline int __any_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return emu_ballot(mask, p, line) != 0;
}
inline int __all_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return emu_ballot(mask, !p, line) == 0;
}
inline void __threadfence() { emu_fence(); }
inline void __threadfence_block() {}

namespace emu {
template <typename T>
inline T shuffle(int kind, unsigned mask, T value, int lane, int width, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes a lane");
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = emu_shuffle(kind, mask, bits, lane, width, line);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
}  // namespace emu

#define EMU_SHUFFLE(NAME, KIND) \
    template <typename T> \
    inline T NAME(unsigned mask, T v, int lane, int width = 32, int line = __builtin_LINE()) { \
        return emu::shuffle(KIND, mask, v, lane, width, line); \
    }
EMU_SHUFFLE(__shfl_sync, 0)
EMU_SHUFFLE(__shfl_up_sync, 1)
EMU_SHUFFLE(__shfl_down_sync, 2)
EMU_SHUFFLE(__shfl_xor_sync, 3)

// ---------------------------------------------------------------- atomics
// Threads run one at a time, so announcing the access is all that is left to do.

namespace emu {
template <typename T, typename F>
__attribute__((noinline)) T atomic(T* address, F change) {
    emu_access(address, sizeof(T), EMU_ATOMIC, EMU_HERE);
    T old, next;
    emu_copy(&old, address, sizeof(T));
    next = change(old);
    emu_copy(address, &next, sizeof(T));
    return old;
}
}  // namespace emu

#define EMU_ATOMIC_OP(NAME, NEXT) \
    template <typename T> \
    __attribute__((always_inline)) inline T NAME(T* address, decltype(T() + T()) value) { \
        return emu::atomic(address, [=](T old) -> T { return NEXT; }); \
    }
EMU_ATOMIC_OP(atomicAdd, old + value)
EMU_ATOMIC_OP(atomicSub, old - value)
EMU_ATOMIC_OP(atomicMax, old < value ? value : old)
EMU_ATOMIC_OP(atomicMin, value < old ? value : old)
EMU_ATOMIC_OP(atomicAnd, old & value)
EMU_ATOMIC_OP(atomicOr, old | value)
EMU_ATOMIC_OP(atomicXor, old ^ value)
EMU_ATOMIC_OP(atomicExch, value)
EMU_ATOMIC_OP(atomicInc, old >= value ? 0 : old + 1)

template <typename T>
__attribute__((always_inline)) inline T atomicCAS(
    T* address, decltype(T() + T()) compare, decltype(T() + T()) value) {
    return emu::atomic(address, [=](T old) -> T { return old == compare ? value : old; });
}

#define __trap() emu_trap("__trap", __LINE__)
#define assert(CONDITION) ((CONDITION) ? (void)0 : emu_trap("assert(" #CONDITION ")", __LINE__))

template <typename T> inline T __ldg(const T* address) { return *address; }
template <typename T> inline T __ldcs(const T* address) { return *address; }
template <typename T> inline void __stcs(T* address, T value) { *address = value; }
