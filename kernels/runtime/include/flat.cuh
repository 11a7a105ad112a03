// Arrays seen as n elements in a row, and a function that makes each element of some of them from
// the same elements of others: with A = accum<T>,
//
//     map_elements<THREADS, PACKS, T>({y}, {a, b}, n, [](const A* in, A* out) {
//         *out = in[0] + in[1];
//     });
//
// is y[i] = a[i] + b[i] for all i < n. The grid comes from flat_blocks in flat.py: it has a thread
// for every PACKS packs of 16 bytes, or more, and what there is to do is dealt out evenly.
//
// A thread with PACKS packs to do loads them all before it works on the first, so that they travel
// together. (__launch_bounds__(THREADS, 8) at the kernel matters here: it grants each thread 64
// registers, 1024 threads on a multiprocessor. Without the 8 the compiler aims at 2048 threads with
// 32 registers, and to save some puts off each load until the pack before it is done.)
//
// Of 100 threads, number 5 takes the packs 5, 105, 205, ...: neighbours in a warp read neighbours
// in memory, 512 bytes in one piece. The elements behind the last whole pack, and all those of
// arrays that do not begin at a multiple of 16 bytes, go one by one.
#pragma once

#include "pack.cuh"

// Pack number p of each output, from pack x[a] of each input.
template <typename T, int OUT, int IN, typename F>
__device__ __forceinline__ void map_pack(T* const (&to)[OUT], const Pack<T> (&x)[IN], long long p,
                                         F f) {
    using A = accum<T>;
    constexpr int N = Pack<T>::N;
    Pack<T> y[OUT];
    #pragma unroll
    for (int j = 0; j < N; j++) {
        A in[IN], out[OUT];
        #pragma unroll
        for (int a = 0; a < IN; a++) in[a] = to_accum(x[a][j]);
        f(in, out);
        #pragma unroll
        for (int b = 0; b < OUT; b++) y[b][j] = from_accum<T>(out[b]);
    }
    #pragma unroll
    for (int b = 0; b < OUT; b++) store_pack(to[b] + p * N, y[b]);
}

template <int THREADS, int PACKS, typename T, int OUT, int IN, typename F>
__device__ __forceinline__ void map_elements(T* const (&to)[OUT], const T* const (&from)[IN],
                                             long long n, F f) {
    using A = accum<T>;
    constexpr int N = Pack<T>::N;
    long long thread = (long long)blockIdx.x * THREADS + threadIdx.x;
    long long threads = (long long)gridDim.x * THREADS;
    long long packs = n / N;
    for (int a = 0; a < IN; a++) packs = aligned16(from[a]) ? packs : 0;
    for (int b = 0; b < OUT; b++) packs = aligned16(to[b]) ? packs : 0;

    if (thread + (PACKS - 1) * threads < packs) {
        Pack<T> x[PACKS][IN];
        #pragma unroll
        for (int k = 0; k < PACKS; k++)
            #pragma unroll
            for (int a = 0; a < IN; a++)
                x[k][a] = load_pack_once(from[a] + (thread + k * threads) * N);
        #pragma unroll
        for (int k = 0; k < PACKS; k++) map_pack(to, x[k], thread + k * threads, f);
    } else {  // fewer are left, as in arrays too small to give all threads PACKS of them
        #pragma unroll 1
        for (long long p = thread; p < packs; p += threads) {
            Pack<T> x[IN];
            #pragma unroll
            for (int a = 0; a < IN; a++) x[a] = load_pack_once(from[a] + p * N);
            map_pack(to, x, p, f);
        }
    }
    #pragma unroll 1
    for (long long i = packs * N + thread; i < n; i += threads) {
        A in[IN], out[OUT];
        #pragma unroll
        for (int a = 0; a < IN; a++) in[a] = to_accum(from[a][i]);
        f(in, out);
        #pragma unroll
        for (int b = 0; b < OUT; b++) to[b][i] = from_accum<T>(out[b]);
    }
}
