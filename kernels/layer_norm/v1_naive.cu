// Layer normalisation, step 1: one thread a row.
//
// The formula as it stands, three passes over the row. Simple, and slow: a warp's 32 threads read
// 32 different rows, so each 4-byte load of theirs moves a 32-byte sector of its own. A GPU brings
// eight times the bytes it needs, and with N rows only N threads are at work.
#include "types.cuh"

constexpr int THREADS = 128;       // a block
constexpr int ROWS = THREADS;      // of x, a block
constexpr int PART_ROWS = 64;      // of x, that one partial sum of dweight and dbias covers

template <typename T>
__global__ void layer_norm_forward(T* y, accum<T>* mean, accum<T>* rstd, const T* x,
                                   const T* weight, const T* bias, accum<T> eps, int N, int C) {
    using A = accum<T>;
    int n = blockIdx.x * ROWS + threadIdx.x;
    if (n >= N) return;
    const T* row = x + (long long)n * C;
    T* out = y + (long long)n * C;

    A total = 0;
    for (int c = 0; c < C; c++) total += to_accum(row[c]);
    A m = total / C;
    total = 0;
    for (int c = 0; c < C; c++) {
        A d = to_accum(row[c]) - m;
        total += d * d;
    }
    A r = rsqrt(total / C + eps);
    for (int c = 0; c < C; c++)
        out[c] = from_accum<T>((to_accum(row[c]) - m) * r * to_accum(weight[c]) + to_accum(bias[c]));
    mean[n] = m;
    rstd[n] = r;
}

template <typename T>
__global__ void layer_norm_backward(T* dx, const T* dy, const T* x, const T* weight,
                                    const accum<T>* mean, const accum<T>* rstd, int N, int C) {
    using A = accum<T>;
    int n = blockIdx.x * ROWS + threadIdx.x;
    if (n >= N) return;
    long long start = (long long)n * C;
    A m = mean[n], r = rstd[n];

    A g_sum = 0, gx_sum = 0;
    for (int c = 0; c < C; c++) {
        A g = to_accum(dy[start + c]) * to_accum(weight[c]);
        g_sum += g;
        gx_sum += g * (to_accum(x[start + c]) - m) * r;
    }
    for (int c = 0; c < C; c++) {
        A xhat = (to_accum(x[start + c]) - m) * r;
        A g = to_accum(dy[start + c]) * to_accum(weight[c]);
        dx[start + c] = from_accum<T>(r * (g - g_sum / C - xhat * gx_sum / C));
    }
}

// Stage 1 of dweight and dbias: one thread a column adds PART_ROWS rows. partial is (2, parts, C).
template <typename T>
__global__ void layer_norm_partial_sums(accum<T>* partial, const T* dy, const T* x,
                                        const accum<T>* mean, const accum<T>* rstd, int N, int C) {
    using A = accum<T>;
    int c = blockIdx.x * THREADS + threadIdx.x, part = blockIdx.y, parts = gridDim.y;
    if (c >= C) return;
    A dw = 0, db = 0;
    for (int n = part * PART_ROWS; n < N && n < (part + 1) * PART_ROWS; n++) {
        A d = to_accum(dy[(long long)n * C + c]);
        dw += d * (to_accum(x[(long long)n * C + c]) - mean[n]) * rstd[n];
        db += d;
    }
    partial[(long long)part * C + c] = dw;
    partial[(long long)(parts + part) * C + c] = db;
}

// Stage 2: one thread a column adds the parts, in their order.
template <typename T>
__global__ void layer_norm_total(T* dweight, T* dbias, const accum<T>* partial, int parts, int C) {
    using A = accum<T>;
    int c = blockIdx.x * THREADS + threadIdx.x;
    if (c >= C) return;
    A dw = 0, db = 0;
    for (int part = 0; part < parts; part++) {
        dw += partial[(long long)part * C + c];
        db += partial[(long long)(parts + part) * C + c];
    }
    dweight[c] = from_accum<T>(dw);
    dbias[c] = from_accum<T>(db);
}
