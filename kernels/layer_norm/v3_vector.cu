// Layer normalisation, step 3: 16 bytes a load, each row read once and kept in registers.
//
// Against step 2: a thread holds 32 bytes of its row in two 16-byte packs. A warp's load is one
// request of 512 bytes, so a row of 4096 bf16 takes 16 requests instead of 128, three times over.
// As many lanes share a row as that needs, 8 to 512, and mean and variance come from registers:
// forward moves 2 arrays, x and y, as a copy does. 256 threads of 40 registers a row of 8 KB are 6
// blocks an SM: 48 KB on their way. By Little's law 4.8 TB/s, an H200's data sheet says, need 29 KB
// in each of 132 SMs if a load takes 0.8 us.
//
// Backward reads dy and x once. A thread owns its columns for all rows that its block walks, so the
// sums for dweight and dbias stay in its registers, and a block writes one row of them at its end:
// 3 arrays and PARTS rows. The next row's loads are issued before the sums of this one are awaited.
//
// Rows that do not split into packs, or that outgrow the registers of 512 threads (16 KB), are read
// twice or thrice; so soon after, that L1 or L2 still has them.
//
// asserts: no spills
// asserts layer_norm_forward: 128-bit loads, 128-bit stores
// asserts layer_norm_forward<float>: registers <= 40
// asserts layer_norm_forward<bf16>: registers <= 40
// asserts layer_norm_backward: 128-bit loads, 128-bit stores, registers <= 128
#include "rows.cuh"
#include "types.cuh"

constexpr int THREADS = 256;                     // a block, unless one row takes more
constexpr int LEAST_LANES = 8, MOST_LANES = 512; // threads a row: blockDim.x; rows: blockDim.y
constexpr int BYTES = 32;                        // of a row, a thread
constexpr int PARTS = 264;                       // blocks of backward: 2 for each of 132 SMs
constexpr int COLUMNS = 32, SLICES = 32;         // a block that adds the partial sums
constexpr int MOST_ROWS = THREADS / LEAST_LANES; // a block

// ---------------------------------------------------------------- forward

template <typename T>
struct Moments { accum<T> mean, rstd; };

template <typename T>
__device__ __forceinline__ Moments<T> forward_in_registers(
    T* y, const T* x, const T* weight, const T* bias, accum<T> eps, int C, int columns,
    accum<T> (&scratch)[2][MOST_WARPS][1]) {
    using A = accum<T>;
    constexpr int W = Slice<T>::N, ITEMS = Slice<T>::ITEMS;
    Slice<T> row = load_slice<true>(x, columns);
    A sum[1] = {0};
    #pragma unroll
    for (int i = 0; i < ITEMS; i++) sum[0] += row.at(i);
    row_sums(sum, scratch[0]);
    A m = sum[0] / C;
    sum[0] = 0;
    #pragma unroll
    for (int i = 0; i < ITEMS; i++)
        if (column<T>(i / W) < C) sum[0] += (row.at(i) - m) * (row.at(i) - m);
    row_sums(sum, scratch[1]);
    A r = rsqrt(sum[0] / C + eps);
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = column<T>(p);
        if (c >= columns) break;
        A w[W], b[W];
        load_few<W>(w, weight + c);  // from L1, but for a block's first rows
        load_few<W>(b, bias + c);
        #pragma unroll
        for (int i = 0; i < W; i++) w[i] = (row.at(p * W + i) - m) * r * w[i] + b[i];
        store_once(y + c, rounded<T>(w));
    }
    return {m, r};
}

// The same with W elements at a time, for any row: read three times.
template <int W, typename T>
__device__ __noinline__ Moments<T> forward_reread(
    T* y, const T* x, const T* weight, const T* bias, accum<T> eps, int C, int columns,
    accum<T> (&scratch)[2][MOST_WARPS][1]) {
    using A = accum<T>;
    A sum[1] = {0}, v[W], w[W], b[W];
    int start = threadIdx.x * W, step = blockDim.x * W;
    #pragma unroll 2
    for (int c = start; c < columns; c += step) {
        load_few<W>(v, x + c);
        for (int i = 0; i < W; i++) sum[0] += v[i];
    }
    row_sums(sum, scratch[0]);
    A m = sum[0] / C;
    sum[0] = 0;
    #pragma unroll 2
    for (int c = start; c < columns; c += step) {
        load_few<W>(v, x + c);
        for (int i = 0; i < W; i++) sum[0] += (v[i] - m) * (v[i] - m);
    }
    row_sums(sum, scratch[1]);
    A r = rsqrt(sum[0] / C + eps);
    for (int c = start; c < columns; c += step) {
        load_few<W>(v, x + c);
        load_few<W>(w, weight + c);
        load_few<W>(b, bias + c);
        for (int i = 0; i < W; i++) v[i] = (v[i] - m) * r * w[i] + b[i];
        store_few<W>(y + c, v);
    }
    return {m, r};
}

template <typename T>
__global__ void __launch_bounds__(MOST_LANES, sizeof(T) == 8 ? 2 : 3)
layer_norm_forward(T* y, accum<T>* mean, accum<T>* rstd, const T* x, const T* weight,
                   const T* bias, accum<T> eps, int N, int C) {
    using A = accum<T>;
    __shared__ A scratch[2][MOST_WARPS][1];
    long long n = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    int columns = n < N ? C : 0;  // no thread leaves: they meet at barriers
    bool packs = C % Pack<T>::N == 0 && aligned16(x) && aligned16(y) && aligned16(weight) &&
                 aligned16(bias);
    x += n * C;
    y += n * C;
    Moments<T> of_row;
    if (packs && fits_in_registers<T>(C))
        of_row = forward_in_registers(y, x, weight, bias, eps, C, columns, scratch);
    else if (packs)
        of_row = forward_reread<Pack<T>::N>(y, x, weight, bias, eps, C, columns, scratch);
    else
        of_row = forward_reread<1>(y, x, weight, bias, eps, C, columns, scratch);
    if (n < N && threadIdx.x == 0) {
        mean[n] = of_row.mean;
        rstd[n] = of_row.rstd;
    }
}

// ---------------------------------------------------------------- backward

template <typename T>
struct Row {
    Slice<T> dy, x;
    accum<T> mean, rstd;
};

// Row n; zeros where there is no such row.
template <typename T>
__device__ __forceinline__ Row<T> load_row(const T* dy, const T* x, const accum<T>* mean,
                                           const accum<T>* rstd, long long n, int N, int C) {
    bool exists = n < N;
    Row<T> row;
    row.dy = load_slice<true>(dy + n * C, exists ? C : 0);
    row.x = load_slice<true>(x + n * C, exists ? C : 0);
    row.mean = exists ? mean[n] : accum<T>(0);
    row.rstd = exists ? rstd[n] : accum<T>(0);
    return row;
}

template <typename T>
__device__ __forceinline__ void backward_in_registers(
    T* dx, accum<T>* partial, const T* dy, const T* x, const T* weight, const accum<T>* mean,
    const accum<T>* rstd, int N, int C, accum<T> (&scratch)[2][MOST_WARPS][2],
    accum<T> (&columns)[2 * Slice<T>::ITEMS][THREADS / 2]) {
    using A = accum<T>;
    constexpr int W = Slice<T>::N, ITEMS = Slice<T>::ITEMS;
    Slice<T> w = load_slice<false>(weight, C);
    A totals[2 * ITEMS] = {}, one_of_C = A(1) / C;  // totals of dweight, then dbias
    int rows = blockDim.y, turn = 0;
    long long first = (long long)blockIdx.x * rows, stride = (long long)gridDim.x * rows;
    Row<T> next = load_row(dy, x, mean, rstd, first + threadIdx.y, N, C);
    for (; first < N; first += stride, turn ^= 1) {
        Row<T> row = next;
        long long n = first + threadIdx.y;
        next = load_row(dy, x, mean, rstd, n + stride, N, C);
        // Two fused multiply-adds an element: xhat = x r + shift, and below
        // dx = r (g - mean(g) - xhat mean(g xhat)) = g r + (x slope + offset).
        A r = row.rstd, shift = -row.mean * r, sums[2] = {0, 0};  // of g and g xhat
        #pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            A d = row.dy.at(i), xhat = row.x.at(i) * r + shift, g = d * w.at(i);
            sums[0] += g;
            sums[1] += g * xhat;
            totals[i] += d * xhat;
            totals[ITEMS + i] += d;
        }
        row_sums(sums, scratch[turn]);
        A g_mean = sums[0] * one_of_C, gx_mean = sums[1] * one_of_C;
        A slope = -r * r * gx_mean, offset = -r * (g_mean + shift * gx_mean);
        #pragma unroll
        for (int p = 0; p < PACKS; p++) {
            A out[W];
            #pragma unroll
            for (int i = 0; i < W; i++) {
                A g = row.dy.at(p * W + i) * w.at(p * W + i);
                out[i] = g * r + (row.x.at(p * W + i) * slope + offset);
            }
            if (n < N && column<T>(p) < C)
                store_once(dx + n * C + column<T>(p), rounded<T>(out));
        }
    }

    column_sums(totals, columns);
    if (threadIdx.y > 0) return;
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = column<T>(p);
        if (c >= C) break;
        A dw[W], db[W];
        #pragma unroll
        for (int i = 0; i < W; i++) dw[i] = totals[p * W + i], db[i] = totals[ITEMS + p * W + i];
        store_few<W>(partial + (long long)blockIdx.x * C + c, dw);
        store_few<W>(partial + (long long)(gridDim.x + blockIdx.x) * C + c, db);
    }
}

// The same with W elements at a time, for any row: the lanes of a row find its sums, then all
// threads take columns of a few rows, read again, and add to the block's row of partial sums.
template <int W, typename T>
__device__ __noinline__ void backward_reread(
    T* dx, accum<T>* partial, const T* dy, const T* x, const T* weight, const accum<T>* mean,
    const accum<T>* rstd, int N, int C, accum<T> (&scratch)[2][MOST_WARPS][2],
    accum<T> (&means)[MOST_ROWS][2]) {
    using A = accum<T>;
    A d[W], v[W], w[W], dw[W] = {}, db[W] = {};
    int threads = blockDim.x * blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x;
    int rows = max((int)blockDim.y, 4), turn = 0;
    A *dweight = partial + (long long)blockIdx.x * C;
    A *dbias = partial + (long long)(gridDim.x + blockIdx.x) * C;
    for (int c = thread * W; c < C; c += threads * W) {
        store_few<W>(dweight + c, dw);
        store_few<W>(dbias + c, db);
    }
    long long first = (long long)blockIdx.x * rows, stride = (long long)gridDim.x * rows;
    for (; first < N; first += stride) {
        for (int i = threadIdx.y; i < rows; i += blockDim.y, turn ^= 1) {
            long long n = first + i;
            int end = n < N ? C : 0;
            A sums[2] = {0, 0}, m = n < N ? mean[n] : A(0), r = n < N ? rstd[n] : A(0);
            #pragma unroll 2
            for (int c = threadIdx.x * W; c < end; c += blockDim.x * W) {
                load_few<W>(d, dy + n * C + c);
                load_few<W>(v, x + n * C + c);
                load_few<W>(w, weight + c);
                for (int j = 0; j < W; j++) {
                    sums[0] += d[j] * w[j];
                    sums[1] += d[j] * w[j] * ((v[j] - m) * r);
                }
            }
            row_sums(sums, scratch[turn]);
            if (threadIdx.x == 0)
                for (int k = 0; k < 2; k++) means[i][k] = sums[k] / C;
        }
        __syncthreads();
        int some = first + rows < N ? rows : N - first;  // rows that there are
        for (int c = thread * W; c < C; c += threads * W) {
            load_few<W>(w, weight + c);
            load_few<W>(dw, dweight + c);
            load_few<W>(db, dbias + c);
            #pragma unroll 2
            for (int i = 0; i < some; i++) {
                long long n = first + i, at = n * C + c;
                A m = mean[n], r = rstd[n];
                load_few<W>(d, dy + at);
                load_few<W>(v, x + at);
                for (int j = 0; j < W; j++) {
                    A xhat = (v[j] - m) * r;
                    dw[j] += d[j] * xhat;
                    db[j] += d[j];
                    v[j] = r * (d[j] * w[j] - means[i][0] - xhat * means[i][1]);
                }
                store_few<W>(dx + at, v);
            }
            store_few<W>(dweight + c, dw);
            store_few<W>(dbias + c, db);
        }
        __syncthreads();  // the next rows' means take the place of these
    }
}

// partial is (2, gridDim.x, C): a row of dweight, then one of dbias, for each block.
template <typename T>
__global__ void __launch_bounds__(MOST_LANES, 1)
layer_norm_backward(T* dx, accum<T>* partial, const T* dy, const T* x, const T* weight,
                    const accum<T>* mean, const accum<T>* rstd, int N, int C) {
    using A = accum<T>;
    __shared__ A scratch[2][MOST_WARPS][2];
    __shared__ A columns[2 * Slice<T>::ITEMS][THREADS / 2];
    __shared__ A means[MOST_ROWS][2];
    bool packs = C % Pack<T>::N == 0 && aligned16(dx) && aligned16(dy) && aligned16(x) &&
                 aligned16(weight);
    if (packs && fits_in_registers<T>(C))
        backward_in_registers(dx, partial, dy, x, weight, mean, rstd, N, C, scratch, columns);
    else if (packs)
        backward_reread<Pack<T>::N>(dx, partial, dy, x, weight, mean, rstd, N, C, scratch, means);
    else
        backward_reread<1>(dx, partial, dy, x, weight, mean, rstd, N, C, scratch, means);
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
