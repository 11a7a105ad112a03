// Root-mean-square normalisation, step 1: one thread a row.
//
// The formula as it stands, two passes over the row. Simple, and slow: a warp's 32 threads read 32
// different rows, so each 4-byte load of theirs moves a 32-byte sector of its own. A GPU brings
// eight times the bytes it needs, and with N rows only N threads are at work.
//
// Backward: a block's threads first take a row each for dx, then a column each for the block's
// share of dweight: neighbours then read neighbours, 4 sectors a load instead of 32.
//
// ADD: the row is x + residual, written to `total`; in backward its gradient dtotal joins dx.
#include "types.cuh"

constexpr int THREADS = 128;                   // a block
constexpr int LEAST_LANES = 1, MOST_LANES = 1; // threads a row: blockDim.x; rows: blockDim.y
constexpr int PARTS = 2147483647;              // partial sums of dweight: as many as blocks
constexpr int COLUMNS = 128, SLICES = 1;       // a block that adds the partial sums

template <bool ADD, typename T>
__device__ void forward(T* y, T* total, accum<T>* rstd, const T* x, const T* residual,
                        const T* weight, accum<T> eps, int N, int C) {
    using A = accum<T>;
    long long n = (long long)blockIdx.x * blockDim.y + threadIdx.y, start = n * C;
    if (n >= N) return;
    A squares = 0;
    for (int c = 0; c < C; c++) {
        T value = x[start + c];
        if (ADD) {
            value = from_accum<T>(to_accum(value) + to_accum(residual[start + c]));
            total[start + c] = value;
        }
        squares += to_accum(value) * to_accum(value);
    }
    A r = rsqrt(squares / C + eps);
    const T* row = ADD ? total : x;
    for (int c = 0; c < C; c++)
        y[start + c] = from_accum<T>(to_accum(row[start + c]) * r * to_accum(weight[c]));
    rstd[n] = r;
}

template <bool ADD, typename T>
__device__ void backward(T* dx, accum<T>* partial, const T* dy, const T* dtotal, const T* x,
                         const T* weight, const accum<T>* rstd, int N, int C) {
    using A = accum<T>;
    long long first = (long long)blockIdx.x * blockDim.y, n = first + threadIdx.y, start = n * C;
    if (n < N) {
        A r = rstd[n], gx_sum = 0;
        for (int c = 0; c < C; c++)
            gx_sum += to_accum(dy[start + c]) * to_accum(weight[c]) * to_accum(x[start + c]) * r;
        A gx_mean = gx_sum / C;
        for (int c = 0; c < C; c++) {
            A xhat = to_accum(x[start + c]) * r;
            A d = r * (to_accum(dy[start + c]) * to_accum(weight[c]) - xhat * gx_mean);
            if (ADD) d += to_accum(dtotal[start + c]);
            dx[start + c] = from_accum<T>(d);
        }
    }

    for (int c = threadIdx.y; c < C; c += blockDim.y) {
        A dw = 0;
        for (n = first; n < N && n < first + blockDim.y; n++)
            dw += to_accum(dy[n * C + c]) * to_accum(x[n * C + c]) * rstd[n];
        partial[(long long)blockIdx.x * C + c] = dw;
    }
}

template <typename T>
__global__ void rms_norm_forward(T* y, accum<T>* rstd, const T* x, const T* weight, accum<T> eps,
                                 int N, int C) {
    forward<false, T>(y, nullptr, rstd, x, nullptr, weight, eps, N, C);
}

template <typename T>
__global__ void add_rms_norm_forward(T* y, T* total, accum<T>* rstd, const T* x, const T* residual,
                                     const T* weight, accum<T> eps, int N, int C) {
    forward<true, T>(y, total, rstd, x, residual, weight, eps, N, C);
}

// partial is (gridDim.x, C): a row of dweight for each block.
template <typename T>
__global__ void rms_norm_backward(T* dx, accum<T>* partial, const T* dy, const T* x,
                                  const T* weight, const accum<T>* rstd, int N, int C) {
    backward<false, T>(dx, partial, dy, nullptr, x, weight, rstd, N, C);
}

template <typename T>
__global__ void add_rms_norm_backward(T* dx, accum<T>* partial, const T* dy, const T* dtotal,
                                      const T* total, const T* weight, const accum<T>* rstd, int N,
                                      int C) {
    backward<true, T>(dx, partial, dy, dtotal, total, weight, rstd, N, C);
}

// Stage 2 of dweight: one thread a column adds the parts, in their order.
template <typename T>
__global__ void rms_norm_total(T* dweight, const accum<T>* partial, int parts, int C) {
    int c = blockIdx.x * COLUMNS + threadIdx.x;
    if (c >= C) return;
    accum<T> dw = 0;
    for (int part = 0; part < parts; part++) dw += partial[(long long)part * C + c];
    dweight[c] = from_accum<T>(dw);
}
