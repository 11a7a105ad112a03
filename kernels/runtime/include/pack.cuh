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

// Whether packs of T may be loaded from here: the address is a multiple of 16.
__device__ __forceinline__ bool aligned16(const void* address) {
    return reinterpret_cast<size_t>(address) % 16 == 0;
}
