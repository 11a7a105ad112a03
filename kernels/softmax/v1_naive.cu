// Softmax, step 1: one thread a row.
//
// The formula as it stands, three passes over the row. Simple, and slow: a warp's 32 threads read
// 32 different rows, so each element of theirs lies in a 32-byte sector of its own. A GPU moves 8
// times the bytes that a float needs (16 times for bf16), three times over, and N rows put only N
// threads to work.
#include "types.cuh"

constexpr int THREADS = 128;  // a block
constexpr int LEAST_ROW_THREADS = 1, MOST_ROW_THREADS = 1, THREAD_BYTES = 1;
constexpr int KEPT_BYTES = 0;  // of its rows that a block keeps: step 3 has `slots` for them

template <typename T>
__global__ void softmax_forward(T* y, const T* x, int N, int C, int slots) {
    using A = accum<T>;
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N || C == 0) return;
    const T* row = x + (long long)n * C;
    T* out = y + (long long)n * C;

    A largest = to_accum(row[0]);
    for (int c = 1; c < C; c++) largest = max(largest, to_accum(row[c]));
    A total = 0;
    for (int c = 0; c < C; c++) total += exp(to_accum(row[c]) - largest);
    for (int c = 0; c < C; c++) out[c] = from_accum<T>(exp(to_accum(row[c]) - largest) / total);
}

template <typename T>
__global__ void softmax_backward(T* dx, const T* dy, const T* y, int N, int C, int slots) {
    using A = accum<T>;
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    long long start = (long long)n * C;

    A dot = 0;
    for (int c = 0; c < C; c++) dot += to_accum(dy[start + c]) * to_accum(y[start + c]);
    for (int c = 0; c < C; c++)
        dx[start + c] = from_accum<T>(to_accum(y[start + c]) * (to_accum(dy[start + c]) - dot));
}
