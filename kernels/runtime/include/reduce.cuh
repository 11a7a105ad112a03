// Sums and maxima over the lanes of a warp and the threads of a block, given to every one of them.
// Each is the same tree whatever the order in which threads run: results are deterministic.
#pragma once

constexpr unsigned ALL_LANES = 0xffffffff;

template <typename A>
__device__ __forceinline__ A warp_sum(A x) {
    for (int distance = 16; distance > 0; distance /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

template <typename A>
__device__ __forceinline__ A warp_max(A x) {
    for (int distance = 16; distance > 0; distance /= 2)
        x = max(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

// A block of THREADS threads, a multiple of 32: each warp by shuffles, then the warps' results.
template <int THREADS, typename A>
__device__ __forceinline__ A block_sum(A x) {
    __shared__ A partial[THREADS / 32];
    x = warp_sum(x);
    if (THREADS == 32) return x;
    __syncthreads();  // an earlier call's results have been read
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < THREADS / 32; w++) x += partial[w];
    return x;
}

template <int THREADS, typename A>
__device__ __forceinline__ A block_max(A x) {
    __shared__ A partial[THREADS / 32];
    x = warp_max(x);
    if (THREADS == 32) return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    x = partial[0];
    for (int w = 1; w < THREADS / 32; w++) x = max(x, partial[w]);
    return x;
}
