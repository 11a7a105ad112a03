// Layer normalisation, step 1: one thread a row.
//
// The formula as it stands, three passes over the row. Simple, and slow: a warp's 32 threads read
// 32 different rows, so each 4-byte load of theirs moves a 32-byte sector of its own. A GPU brings
// eight times the bytes it needs, and with N rows only N threads are at work.
//
// Backward: a block's threads first take a row each for dx, then a column each for the block's
// share of dweight and dbias: neighbours then read neighbours, 4 sectors a load instead of 32.
#include "types.cuh"

constexpr int THREADS = 128;                   // a block
constexpr int LEAST_LANES = 1, MOST_LANES = 1; // threads a row: blockDim.x; rows: blockDim.y
constexpr int PARTS = 2147483647;              // partial sums of dweight: as many as blocks
constexpr int COLUMNS = 128, SLICES = 1;       // a block that adds the partial sums

template <typename T>
__global__ void layer_norm_forward(T* y, accum<T>* mean, accum<T>* rstd, const T* x,
                                   const T* weight, const T* bias, accum<T> eps, int N, int C) {
    using A = accum<T>;
    long long n = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    const T* row = x + n * C;
    T* out = y + n * C;

    A total = 0;
    for (int c = 0; c < C; c++) total += to_accum(row[c]);
    A m = total / C;
    total = 0;
    for (int c = 0; c < C; c++) {
        A d = to_accum(row[c]) - m;
        total += d * d;
    }
    A r = rsqrt(total / C + eps);
    for (int c = 0; c < C; c++) {
        A xhat = (to_accum(row[c]) - m) * r;
        out[c] = from_accum<T>(xhat * to_accum(weight[c]) + to_accum(bias[c]));
    }
    mean[n] = m;
    rstd[n] = r;
}

// partial is (2, gridDim.x, C): a row of dweight, then one of dbias, for each block.
template <typename T>
__global__ void layer_norm_backward(T* dx, accum<T>* partial, const T* dy, const T* x,
                                    const T* weight, const accum<T>* mean, const accum<T>* rstd,
                                    int N, int C) {
    using A = accum<T>;
    long long first = (long long)blockIdx.x * blockDim.y, n = first + threadIdx.y;
    if (n < N) {
        const T *row = x + n * C, *grad = dy + n * C;
        A m = mean[n], r = rstd[n];
        A g_sum = 0, gx_sum = 0;
        for (int c = 0; c < C; c++) {
            A g = to_accum(grad[c]) * to_accum(weight[c]);
            g_sum += g;
            gx_sum += g * (to_accum(row[c]) - m) * r;
        }
        A g_mean = g_sum / C, gx_mean = gx_sum / C;
        for (int c = 0; c < C; c++) {
            A xhat = (to_accum(row[c]) - m) * r;
            A g = to_accum(grad[c]) * to_accum(weight[c]);
            dx[n * C + c] = from_accum<T>(r * (g - g_mean - xhat * gx_mean));
        }
    }

    for (int c = threadIdx.y; c < C; c += blockDim.y) {
        A dw = 0, db = 0;
        for (n = first; n < N && n < first + blockDim.y; n++) {
            A d = to_accum(dy[n * C + c]);
            dw += d * (to_accum(x[n * C + c]) - mean[n]) * rstd[n];
            db += d;
        }
        partial[(long long)blockIdx.x * C + c] = dw;
        partial[(long long)(gridDim.x + blockIdx.x) * C + c] = db;
    }
}

// Stage 2 of dweight and dbias: one thread a column adds the parts, in their order.
template <typename T>
__global__ void layer_norm_total(T* dweight, T* dbias, const accum<T>* partial, int parts, int C) {
    using A = accum<T>;
    int c = blockIdx.x * COLUMNS + threadIdx.x;
    if (c >= C) return;
    A dw = 0, db = 0;
    for (int part = 0; part < parts; part++) {
        dw += partial[(long long)part * C + c];
        db += partial[(long long)(parts + part) * C + c];
    }
    dweight[c] = from_accum<T>(dw);
    dbias[c] = from_accum<T>(db);
}
