// Layer normalisation, step 2: one warp a row.
//
// A row's 32 lanes read neighbouring elements: a warp's load of 32 floats is 128 bytes in 4
// sectors, all of them wanted, where step 1 moved 32 sectors for the same 128 bytes. Sums go from
// lane to lane by shuffles, five exchanges of registers, and N rows keep 32 N threads at work.
//
// The row is still read three times (the later ones from a cache if the row is short), 2 or 4 bytes
// a thread at a time. Backward still reads dy and x once more by columns, but PARTS blocks walk all
// rows, so that the partial sums are few: PARTS rows of them instead of N / 128.
//
// asserts: no spills
#include "reduce.cuh"
#include "types.cuh"

constexpr int THREADS = 256;                     // a block
constexpr int LEAST_LANES = 32, MOST_LANES = 32; // threads a row: blockDim.x; rows: blockDim.y
constexpr int PARTS = 528;                       // partial sums of dweight: blocks of backward
constexpr int COLUMNS = 32, SLICES = 32;         // a block that adds the partial sums

template <typename T>
__global__ void layer_norm_forward(T* y, accum<T>* mean, accum<T>* rstd, const T* x,
                                   const T* weight, const T* bias, accum<T> eps, int N, int C) {
    using A = accum<T>;
    long long n = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;  // the whole warp: it is one row
    const T* row = x + n * C;
    T* out = y + n * C;

    A total = 0;
    for (int c = threadIdx.x; c < C; c += 32) total += to_accum(row[c]);
    A m = warp_sum(total) / C;
    total = 0;
    for (int c = threadIdx.x; c < C; c += 32) {
        A d = to_accum(row[c]) - m;
        total += d * d;
    }
    A r = rsqrt(warp_sum(total) / C + eps);
    for (int c = threadIdx.x; c < C; c += 32) {
        A xhat = (to_accum(row[c]) - m) * r;
        out[c] = from_accum<T>(xhat * to_accum(weight[c]) + to_accum(bias[c]));
    }
    if (threadIdx.x == 0) {
        mean[n] = m;
        rstd[n] = r;
    }
}

// partial is (2, gridDim.x, C): a row of dweight, then one of dbias, for each block.
template <typename T>
__global__ void layer_norm_backward(T* dx, accum<T>* partial, const T* dy, const T* x,
                                    const T* weight, const accum<T>* mean, const accum<T>* rstd,
                                    int N, int C) {
    using A = accum<T>;
    int rows = blockDim.y;
    long long start = (long long)blockIdx.x * rows, stride = (long long)gridDim.x * rows;
    for (long long n = start + threadIdx.y; n < N; n += stride) {
        const T *row = x + n * C, *grad = dy + n * C;
        A m = mean[n], r = rstd[n];
        A g_sum = 0, gx_sum = 0;
        for (int c = threadIdx.x; c < C; c += 32) {
            A g = to_accum(grad[c]) * to_accum(weight[c]);
            g_sum += g;
            gx_sum += g * (to_accum(row[c]) - m) * r;
        }
        A g_mean = warp_sum(g_sum) / C, gx_mean = warp_sum(gx_sum) / C;
        for (int c = threadIdx.x; c < C; c += 32) {
            A xhat = (to_accum(row[c]) - m) * r;
            A g = to_accum(grad[c]) * to_accum(weight[c]);
            dx[n * C + c] = from_accum<T>(r * (g - g_mean - xhat * gx_mean));
        }
    }

    for (int c = threadIdx.y * 32 + threadIdx.x; c < C; c += THREADS) {
        A dw = 0, db = 0;
        for (long long first = start; first < N; first += stride)
            for (long long n = first; n < N && n < first + rows; n++) {
                A d = to_accum(dy[n * C + c]);
                dw += d * (to_accum(x[n * C + c]) - mean[n]) * rstd[n];
                db += d;
            }
        partial[(long long)blockIdx.x * C + c] = dw;
        partial[(long long)(gridDim.x + blockIdx.x) * C + c] = db;
    }
}

// Stage 2 of dweight and dbias: a warp adds a slice of the parts of 32 columns, 128 bytes a load;
// the slices are added at the end. One thread a column would wait for parts loads one by one.
template <typename T>
__global__ void layer_norm_total(T* dweight, T* dbias, const accum<T>* partial, int parts, int C) {
    using A = accum<T>;
    __shared__ A slices[2][SLICES][COLUMNS];
    int lane = threadIdx.x, slice = threadIdx.y, c = blockIdx.x * COLUMNS + lane;
    A dw = 0, db = 0;
    int end = c < C ? parts : 0;
    #pragma unroll 8
    for (int part = slice; part < end; part += SLICES) {
        dw += partial[(long long)part * C + c];
        db += partial[(long long)(parts + part) * C + c];
    }
    slices[0][slice][lane] = dw;
    slices[1][slice][lane] = db;
    __syncthreads();
    if (slice > 0 || c >= C) return;
    dw = db = 0;
    for (int i = 0; i < SLICES; i++) {
        dw += slices[0][i][lane];
        db += slices[1][i][lane];
    }
    dweight[c] = from_accum<T>(dw);
    dbias[c] = from_accum<T>(db);
}
