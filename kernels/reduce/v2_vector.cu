// Sum of squares and a += b, step 2: 16 bytes a load, and hardly a barrier.
//
// The sum: a thread first adds 16 elements or more in its registers, where it waits for no one.
// Only then do threads meet, and by shuffles, register to register: 5 of them add a warp, and one
// pair of barriers hands the results of a block's 8 warps over. Step 1 has 8 barriers for 256
// elements, here are 2 for 4096 or more. At most 2048 blocks go through the array in turns, so that
// the second stage has little to do; they fill the 132 multiprocessors of an H200 nearly twice.
//
// Bytes on their way: step 1 has 4 a thread for the sum and 8 for a += b, which is 8 and 16 KB with
// the 2048 threads of a multiprocessor; some 40 KB keep its share of the memory busy. Here a thread
// has four loads of 16 bytes in float before its first square, eight before its first a += b.
//
// asserts: no spills
// asserts sum_of_squares: registers <= 32, 128-bit loads
// asserts accumulate: 128-bit loads, 128-bit stores
// asserts accumulate<float>: registers <= 72
// asserts accumulate<bf16>: registers <= 64
#include "pack.cuh"
#include "reduce.cuh"

constexpr int THREADS = 256;       // a block
constexpr int ITEMS = 16;          // elements a thread, at a time: a multiple of all Pack<T>::N
constexpr int MOST_PARTS = 2048;   // blocks of the first stage

// sums (parts,): of each block's elements.
template <typename T>
__global__ void __launch_bounds__(THREADS)
sum_of_squares(double* sums, const T* x, long long n) {
    constexpr int N = Pack<T>::N, PACKS = ITEMS / N, TILE = THREADS * ITEMS;
    bool aligned = aligned16(x);
    double sum = 0;
    for (long long start = (long long)blockIdx.x * TILE; start < n;
         start += (long long)gridDim.x * TILE) {
        if (aligned && start + TILE <= n) {
            Pack<T> xs[PACKS];
            #pragma unroll
            for (int j = 0; j < PACKS; j++)
                xs[j] = load_pack(x + start + (j * THREADS + threadIdx.x) * N);
            #pragma unroll
            for (int j = 0; j < PACKS; j++)
                #pragma unroll
                for (int k = 0; k < N; k++) {
                    double value = to_accum(xs[j][k]);
                    sum += value * value;
                }
        } else {  // a view that starts anywhere, or the last elements
            #pragma unroll
            for (int j = 0; j < ITEMS; j++) {
                long long i = start + j * THREADS + threadIdx.x;
                double value = i < n ? (double)to_accum(x[i]) : 0;
                sum += value * value;
            }
        }
    }
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block adds up the parts, in their order.
template <typename T>
__global__ void __launch_bounds__(THREADS)
sum_of_parts(double* total, const double* sums, int parts) {
    double sum = 0;
    #pragma unroll 8
    for (int i = threadIdx.x; i < parts; i += THREADS) sum += sums[i];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) *total = sum;
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
accumulate(T* a, const T* b, long long n) {
    constexpr int N = Pack<T>::N, PACKS = ITEMS / N, TILE = THREADS * ITEMS;
    long long start = (long long)blockIdx.x * TILE;

    if (!aligned16(a) || !aligned16(b) || start + TILE > n) {  // as above, a ring's pieces often
        T as[ITEMS], bs[ITEMS];
        #pragma unroll
        for (int j = 0; j < ITEMS; j++) {
            long long i = start + j * THREADS + threadIdx.x;
            if (i < n) as[j] = a[i], bs[j] = b[i];
        }
        #pragma unroll
        for (int j = 0; j < ITEMS; j++) {
            long long i = start + j * THREADS + threadIdx.x;
            if (i < n) a[i] = from_accum<T>(to_accum(as[j]) + to_accum(bs[j]));
        }
        return;
    }
    Pack<T> as[PACKS], bs[PACKS];
    #pragma unroll
    for (int j = 0; j < PACKS; j++) {
        long long i = start + (j * THREADS + threadIdx.x) * N;
        as[j] = load_pack(a + i);
        bs[j] = load_pack_once(b + i);
    }
    #pragma unroll
    for (int j = 0; j < PACKS; j++) {
        #pragma unroll
        for (int k = 0; k < N; k++)
            as[j][k] = from_accum<T>(to_accum(as[j][k]) + to_accum(bs[j][k]));
        store_pack(a + start + (j * THREADS + threadIdx.x) * N, as[j]);
    }
}
