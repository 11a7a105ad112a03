// 16 bytes at a time: the widest load and store a thread has. A warp's 512 bytes then are one
// request of 16 sectors instead of four requests, and a quarter as many loads wait in the queues.
#pragma once

#include "types.cuh"

template <typename T>
struct Pack {
    static constexpr int N = 16 / sizeof(T);
    T v[N];
    __device__ __forceinline__ T& operator[](int i) { return v[i]; }
    __device__ __forceinline__ const T& operator[](int i) const { return v[i]; }
};

template <typename T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
    uint4 bits = *reinterpret_cast<const uint4*>(from);
    Pack<T> pack;
    memcpy(&pack, &bits, 16);
    return pack;
}

template <typename T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
    uint4 bits;
    memcpy(&bits, &pack, 16);
    *reinterpret_cast<uint4*>(to) = bits;
}

// The same for data that no one will read again soon: first to leave the caches.
template <typename T>
__device__ __forceinline__ Pack<T> load_pack_once(const T* from) {
    uint4 bits = __ldcs(reinterpret_cast<const uint4*>(from));
    Pack<T> pack;
    memcpy(&pack, &bits, 16);
    return pack;
}

template <typename T>
__device__ __forceinline__ void store_pack_once(T* to, const Pack<T>& pack) {
    uint4 bits;
    memcpy(&bits, &pack, 16);
    __stcs(reinterpret_cast<uint4*>(to), bits);
}

// The elements of a pack, each in the type to compute in.
template <typename T>
__device__ __forceinline__ void widen(accum<T> (&to)[Pack<T>::N], const Pack<T>& pack) {
    #pragma unroll
    for (int j = 0; j < Pack<T>::N; j++) to[j] = to_accum(pack[j]);
}

// A bf16 is the upper half of a float: one instruction for each half of a 32-bit word.
template <>
__device__ __forceinline__ void widen<bf16>(float (&to)[8], const Pack<bf16>& pack) {
    unsigned words[4];
    memcpy(&words, &pack, 16);
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = __uint_as_float(words[i] << 16);
        to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000);
    }
}

// The 16 bytes of a pack of numbers, each rounded once; bf16 two at a time, in one instruction.
template <typename T>
__device__ __forceinline__ uint4 rounded(const accum<T> (&a)[Pack<T>::N]) {
    uint4 bits;
    memcpy(&bits, &a, 16);
    return bits;
}
template <>
__device__ __forceinline__ uint4 rounded<bf16>(const float (&a)[8]) {
    using ptx::bf16x2_from_floats;
    return make_uint4(bf16x2_from_floats(a[0], a[1]), bf16x2_from_floats(a[2], a[3]),
                      bf16x2_from_floats(a[4], a[5]), bf16x2_from_floats(a[6], a[7]));
}

// The same as a pack.
template <typename T>
__device__ __forceinline__ Pack<T> narrow(const accum<T> (&a)[Pack<T>::N]) {
    uint4 bits = rounded<T>(a);
    Pack<T> pack;
    memcpy(&pack, &bits, 16);
    return pack;
}

// Whether packs of T may be loaded from here: the address is a multiple of 16.
__device__ __forceinline__ bool aligned16(const void* address) {
    return reinterpret_cast<size_t>(address) % 16 == 0;
}
