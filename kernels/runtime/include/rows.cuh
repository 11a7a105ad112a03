// Rows of a matrix in a block of threads: blockDim.x "lanes", a power of two, share one row, and
// blockDim.y rows are worked on at once (runtime/rows.py chooses both). Comes in: pointers to rows
// of C elements. Goes out: each thread's Slice of a row in registers, sums over rows and columns.
#pragma once

#include "pack.cuh"
#include "reduce.cuh"

constexpr int PACKS = 2;       // of a row, a thread: 32 bytes, BYTES in the .cu files
constexpr int MOST_WARPS = 32; // a block

// What a thread holds of a row: every lane has a pack, then every lane has a second one, so that
// the lanes of a warp load 512 bytes in a row. Elements beyond the row's end are 0. Kept as 32-bit
// words: of 16-bit elements the compiler would make registers of their own, and wait for the load.
template <typename T>
struct Slice {
    static constexpr int N = Pack<T>::N, ITEMS = PACKS * N;
    unsigned words[PACKS * 4];
    // Element i, widened.
    __device__ __forceinline__ accum<T> at(int i) const {
        if constexpr (sizeof(T) == 8)
            return __longlong_as_double((long long)words[2 * i + 1] << 32 | words[2 * i]);
        else if constexpr (sizeof(T) == 4)
            return __uint_as_float(words[i]);
        else
            return __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000 : words[i / 2] << 16);
    }
    __device__ __forceinline__ void set(int p, const uint4& bits) {
        words[4 * p] = bits.x, words[4 * p + 1] = bits.y;
        words[4 * p + 2] = bits.z, words[4 * p + 3] = bits.w;
    }
};

// The column of the first element of a thread's pack p.
template <typename T>
__device__ __forceinline__ int column(int p) {
    return (p * blockDim.x + threadIdx.x) * Pack<T>::N;
}

// Whether a row fits the registers of its lanes and splits into packs.
template <typename T>
__device__ __forceinline__ bool fits_in_registers(int C) {
    return C % Pack<T>::N == 0 && C <= (int)blockDim.x * Slice<T>::ITEMS;
}

// ONCE: no one will read it again soon.
template <bool ONCE, typename T>
__device__ __forceinline__ Slice<T> load_slice(const T* row, int C) {
    Slice<T> slice = {};
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        if (column<T>(p) >= C) continue;
        const uint4* from = reinterpret_cast<const uint4*>(row + column<T>(p));
        uint4 bits = ONCE ? __ldcs(from) : *from;
        slice.set(p, bits);
    }
    return slice;
}

// Stores a pack that no one will read again soon.
template <typename T>
__device__ __forceinline__ void store_once(T* to, const uint4& bits) {
    __stcs(reinterpret_cast<uint4*>(to), bits);
}

// W neighbouring elements, widened: some packs, or one where addresses are no multiples of 16.
template <int W, typename T>
__device__ __forceinline__ void load_few(accum<T> (&to)[W], const T* from) {
    constexpr int N = Pack<T>::N;
    if constexpr (W % N == 0) {
        #pragma unroll
        for (int start = 0; start < W; start += N) {
            Pack<T> pack = load_pack(from + start);
            #pragma unroll
            for (int i = 0; i < N; i++) to[start + i] = to_accum(pack[i]);
        }
    } else {
        static_assert(W == 1, "whole packs, or one element");
        to[0] = to_accum(*from);
    }
}

template <int W, typename T>
__device__ __forceinline__ void store_few(T* to, const accum<T> (&from)[W]) {
    constexpr int N = Pack<T>::N;
    if constexpr (W % N == 0) {
        #pragma unroll
        for (int start = 0; start < W; start += N) {
            Pack<T> pack;
            #pragma unroll
            for (int i = 0; i < N; i++) pack[i] = from_accum<T>(from[start + i]);
            store_pack(to + start, pack);
        }
    } else {
        static_assert(W == 1, "whole packs, or one element");
        *to = from_accum<T>(from[0]);
    }
}

// Each x[k] becomes its sum over the next `width` lanes, a power of two.
template <int K, typename A>
__device__ __forceinline__ void lane_sums(A (&x)[K], int width) {
    #pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        if (distance < width)
            #pragma unroll
            for (int k = 0; k < K; k++) x[k] += __shfl_xor_sync(ALL_LANES, x[k], distance);
}

// K sums over the lanes of each row, given to all of them. Every thread of the block calls it.
// `scratch` must not be that of the call before, which others may still be reading.
template <int K, typename A>
__device__ __forceinline__ void row_sums(A (&x)[K], A (&scratch)[MOST_WARPS][K]) {
    int lane = threadIdx.x % 32, warps = blockDim.x / 32, first = threadIdx.y * warps;
    lane_sums(x, blockDim.x);
    if (warps <= 1) return;
    if (lane == 0)
        #pragma unroll
        for (int k = 0; k < K; k++) scratch[first + threadIdx.x / 32][k] = x[k];
    __syncthreads();
    #pragma unroll
    for (int k = 0; k < K; k++) x[k] = scratch[first + (lane & (warps - 1))][k];
    lane_sums(x, warps);
}

// K sums over the rows of a block of at most 2 HALF threads, given to the lanes of its first row.
template <int K, int HALF, typename A>
__device__ __forceinline__ void column_sums(A (&x)[K], A (&scratch)[K][HALF]) {
    int y = threadIdx.y, lanes = blockDim.x;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if (y >= half && y < 2 * half)
            #pragma unroll
            for (int k = 0; k < K; k++) scratch[k][(y - half) * lanes + threadIdx.x] = x[k];
        __syncthreads();
        if (y < half)
            #pragma unroll
            for (int k = 0; k < K; k++) x[k] += scratch[k][y * lanes + threadIdx.x];
        __syncthreads();
    }
}
