// Sum of squares and a += b, step 1: one thread an element.
//
// The sum: a block puts its 256 squares into shared memory and adds them as a tree, the upper half
// to the lower half, 8 times over. All threads wait at a barrier before each level, and half of
// those at work go idle after it: 8 barriers for 255 sums, 32 threads at work on average. Sums are
// in double, as in the reference. Blocks write one number each, which a second kernel adds: no
// atomics, so the result does not depend on which block is first.
#include "types.cuh"

constexpr int THREADS = 256;           // a block: a power of two
constexpr int ITEMS = 1;               // elements a thread
constexpr int MOST_PARTS = 2147483647; // blocks of the first stage

// The sum of x over a block's threads, in thread 0.
__device__ __forceinline__ double tree_sum(double x) {
    __shared__ double sums[THREADS];
    sums[threadIdx.x] = x;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];  // thread 0 wrote it last
}

// sums (parts,): of each block's elements.
template <typename T>
__global__ void sum_of_squares(double* sums, const T* x, long long n) {
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    double value = i < n ? (double)to_accum(x[i]) : 0;
    value = tree_sum(value * value);
    if (threadIdx.x == 0) sums[blockIdx.x] = value;
}

// One block adds up the parts, in their order.
template <typename T>
__global__ void sum_of_parts(double* total, const double* sums, int parts) {
    double sum = 0;
    for (int i = threadIdx.x; i < parts; i += THREADS) sum += sums[i];
    sum = tree_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}

template <typename T>
__global__ void accumulate(T* a, const T* b, long long n) {
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) a[i] = from_accum<T>(to_accum(a[i]) + to_accum(b[i]));
}
