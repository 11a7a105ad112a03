// Softmax, step 2: one warp a row.
//
// Before: a warp read 32 rows at once, a sector for each element. Now its lanes read neighbours of
// one row: 32 floats are 128 bytes, 4 sectors and every byte of them wanted, so an eighth of the
// traffic. Maxima and sums meet in registers: 5 shuffles, no memory. N rows put 32 N threads to
// work. Still each row is read three times; short rows come from the caches after the first.
#include "reduce.cuh"
#include "types.cuh"

constexpr int THREADS = 128;  // a block: 4 rows
constexpr int LEAST_ROW_THREADS = 32, MOST_ROW_THREADS = 32, THREAD_BYTES = 1;
constexpr int KEPT_BYTES = 0;  // of its rows that a block keeps: step 3 has `slots` for them

template <typename T>
__global__ void softmax_forward(T* y, const T* x, int N, int C, int slots) {
    using A = accum<T>;
    int n = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (n >= N || C == 0) return;
    const T* row = x + (long long)n * C;
    T* out = y + (long long)n * C;

    A largest = to_accum(row[min(lane, C - 1)]);
    for (int c = lane; c < C; c += 32) largest = max(largest, to_accum(row[c]));
    largest = warp_max(largest);
    A total = 0;
    for (int c = lane; c < C; c += 32) total += exp(to_accum(row[c]) - largest);
    total = warp_sum(total);
    for (int c = lane; c < C; c += 32)
        out[c] = from_accum<T>(exp(to_accum(row[c]) - largest) / total);
}

template <typename T>
__global__ void softmax_backward(T* dx, const T* dy, const T* y, int N, int C, int slots) {
    using A = accum<T>;
    int n = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (n >= N) return;
    long long start = (long long)n * C;

    A dot = 0;
    for (int c = lane; c < C; c += 32) dot += to_accum(dy[start + c]) * to_accum(y[start + c]);
    dot = warp_sum(dot);
    for (int c = lane; c < C; c += 32)
        dx[start + c] = from_accum<T>(to_accum(y[start + c]) * (to_accum(dy[start + c]) - dot));
}
