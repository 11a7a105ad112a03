// Root-mean-square normalisation, step 2: one warp a row.
//
// A row's 32 lanes read neighbouring elements: a warp's load of 32 floats is 128 bytes in 4
// sectors, all of them wanted, where step 1 moved 32 sectors for the same 128 bytes. Sums go from
// lane to lane by shuffles, five exchanges of registers, and N rows keep 32 N threads at work.
//
// The row is still read twice (the second time from a cache if it is short), 2 or 4 bytes a thread
// at a time. Backward still reads dy and x once more by columns, but PARTS blocks walk all rows, so
// that the partial sums are few: PARTS rows of them instead of N / 128.
//
// ADD: the row is x + residual, written to `total`; in backward its gradient dtotal joins dx.
//
// asserts: no spills
#include "reduce.cuh"
#include "types.cuh"

constexpr int THREADS = 256;                     // a block
constexpr int LEAST_LANES = 32, MOST_LANES = 32; // threads a row: blockDim.x; rows: blockDim.y
constexpr int PARTS = 528;                       // partial sums of dweight: blocks of backward
constexpr int COLUMNS = 32, SLICES = 32;         // a block that adds the partial sums

template <bool ADD, typename T>
__device__ void forward(T* y, T* total, accum<T>* rstd, const T* x, const T* residual,
                        const T* weight, accum<T> eps, int N, int C) {
    using A = accum<T>;
    long long n = (long long)blockIdx.x * blockDim.y + threadIdx.y, start = n * C;
    if (n >= N) return;  // the whole warp: it is one row
    A squares = 0;
    for (int c = threadIdx.x; c < C; c += 32) {
        T value = x[start + c];
        if (ADD) {
            value = from_accum<T>(to_accum(value) + to_accum(residual[start + c]));
            total[start + c] = value;
        }
        squares += to_accum(value) * to_accum(value);
    }
    A r = rsqrt(warp_sum(squares) / C + eps);
    const T* row = ADD ? total : x;  // of total, each lane reads what it wrote
    for (int c = threadIdx.x; c < C; c += 32)
        y[start + c] = from_accum<T>(to_accum(row[start + c]) * r * to_accum(weight[c]));
    if (threadIdx.x == 0) rstd[n] = r;
}

template <bool ADD, typename T>
__device__ void backward(T* dx, accum<T>* partial, const T* dy, const T* dtotal, const T* x,
                         const T* weight, const accum<T>* rstd, int N, int C) {
    using A = accum<T>;
    int rows = blockDim.y;
    long long begin = (long long)blockIdx.x * rows, stride = (long long)gridDim.x * rows;
    for (long long n = begin + threadIdx.y; n < N; n += stride) {
        long long start = n * C;
        A r = rstd[n], gx_sum = 0;
        for (int c = threadIdx.x; c < C; c += 32)
            gx_sum += to_accum(dy[start + c]) * to_accum(weight[c]) * to_accum(x[start + c]) * r;
        A gx_mean = warp_sum(gx_sum) / C;
        for (int c = threadIdx.x; c < C; c += 32) {
            A xhat = to_accum(x[start + c]) * r;
            A d = r * (to_accum(dy[start + c]) * to_accum(weight[c]) - xhat * gx_mean);
            if (ADD) d += to_accum(dtotal[start + c]);
            dx[start + c] = from_accum<T>(d);
        }
    }

    for (int c = threadIdx.y * 32 + threadIdx.x; c < C; c += THREADS) {
        A dw = 0;
        for (long long first = begin; first < N; first += stride)
            for (long long n = first; n < N && n < first + rows; n++)
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

// Stage 2 of dweight: a warp adds a slice of the parts of 32 columns, 128 bytes a load; the slices
// are added at the end. One thread a column would wait for parts loads one by one.
template <typename T>
__global__ void rms_norm_total(T* dweight, const accum<T>* partial, int parts, int C) {
    using A = accum<T>;
    __shared__ A slices[SLICES][COLUMNS];
    int lane = threadIdx.x, slice = threadIdx.y, c = blockIdx.x * COLUMNS + lane;
    int end = c < C ? parts : 0;
    A dw = 0;
    #pragma unroll 8
    for (int part = slice; part < end; part += SLICES) dw += partial[(long long)part * C + c];
    slices[slice][lane] = dw;
    __syncthreads();
    if (slice > 0 || c >= C) return;
    dw = 0;
    for (int i = 0; i < SLICES; i++) dw += slices[i][lane];
    dweight[c] = from_accum<T>(dw);
}
