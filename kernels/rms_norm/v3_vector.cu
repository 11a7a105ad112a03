// Root-mean-square normalisation, step 3: 16 bytes a load, each row read once, into registers.
//
// Against step 2: a thread holds 32 bytes of its row in two 16-byte packs. A warp's load is one
// request of 512 bytes, so a row of 4096 bf16 takes 16 requests instead of 128, twice over. As many
// lanes share a row as that needs, 8 to 512. Forward moves 2 arrays, x and y, as a copy does; with
// ADD 4, x, residual, total and y, where an addition and a norm apart move 5. 256 threads of 40
// registers a row of 8 KB are 6 blocks an SM: 48 KB on their way. By Little's law 4.8 TB/s, an
// H200's data sheet says, need 29 KB in each of 132 SMs if a load takes 0.8 us.
//
// Backward reads dy and x once. A thread owns its columns for all rows that its block walks, so the
// sums for dweight stay in its registers, and a block writes one row of them at its end: 3 arrays
// (with ADD 4) and PARTS rows. The next row's loads are issued before this one's sum is awaited.
//
// Rows that do not split into packs, or that outgrow the registers of 512 threads (16 KB), are read
// twice; so soon after, that L1 or L2 still has them.
//
// ADD: the row is x + residual, written to `total`; in backward its gradient dtotal joins dx.
//
// asserts: no spills
// asserts rms_norm_forward: 128-bit loads, 128-bit stores
// asserts rms_norm_forward<float>: registers <= 40
// asserts rms_norm_forward<bf16>: registers <= 40
// asserts add_rms_norm_forward: 128-bit loads, 128-bit stores
// asserts add_rms_norm_forward<float>: registers <= 40
// asserts add_rms_norm_forward<bf16>: registers <= 40
// asserts rms_norm_backward: 128-bit loads, 128-bit stores, registers <= 128
// asserts add_rms_norm_backward: 128-bit loads, 128-bit stores, registers <= 128
#include "rows.cuh"
#include "types.cuh"

constexpr int THREADS = 256;                     // a block, unless one row takes more
constexpr int LEAST_LANES = 8, MOST_LANES = 512; // threads a row: blockDim.x; rows: blockDim.y
constexpr int BYTES = 32;                        // of a row, a thread
constexpr int PARTS = 264;                       // blocks of backward: 2 for each of 132 SMs
constexpr int COLUMNS = 32, SLICES = 32;         // a block that adds the partial sums
constexpr int MOST_ROWS = THREADS / LEAST_LANES; // a block

// ---------------------------------------------------------------- forward

// One row by its lanes: the reciprocal of its root mean square. columns: C, or 0 for no row.
template <bool ADD, typename T>
__device__ __forceinline__ accum<T> forward_in_registers(
    T* y, T* total, const T* x, const T* residual, const T* weight, accum<T> eps, int C,
    int columns, accum<T> (&scratch)[MOST_WARPS][1]) {
    using A = accum<T>;
    constexpr int W = Slice<T>::N, ITEMS = Slice<T>::ITEMS;
    Slice<T> row = load_slice<true>(x, columns);
    if (ADD) {
        Slice<T> other = load_slice<true>(residual, columns);
        #pragma unroll
        for (int p = 0; p < PACKS; p++) {
            A sum[W];
            #pragma unroll
            for (int i = 0; i < W; i++) sum[i] = row.at(p * W + i) + other.at(p * W + i);
            uint4 bits = rounded<T>(sum);
            row.set(p, bits);
            if (column<T>(p) < columns) store_once(total + column<T>(p), bits);
        }
    }
    A squares[1] = {0};
    #pragma unroll
    for (int i = 0; i < ITEMS; i++) squares[0] += row.at(i) * row.at(i);
    row_sums(squares, scratch);
    A r = rsqrt(squares[0] / C + eps);
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = column<T>(p);
        if (c >= columns) break;
        A w[W];
        load_few<W>(w, weight + c);  // from L1, but for a block's first rows
        #pragma unroll
        for (int i = 0; i < W; i++) w[i] = row.at(p * W + i) * r * w[i];
        store_once(y + c, rounded<T>(w));
    }
    return r;
}

// The same with W elements at a time, for any row: read twice.
template <bool ADD, int W, typename T>
__device__ __noinline__ accum<T> forward_reread(
    T* y, T* total, const T* x, const T* residual, const T* weight, accum<T> eps, int C,
    int columns, accum<T> (&scratch)[MOST_WARPS][1]) {
    using A = accum<T>;
    A squares[1] = {0}, v[W], w[W];
    int start = threadIdx.x * W, step = blockDim.x * W;
    #pragma unroll 2
    for (int c = start; c < columns; c += step) {
        load_few<W>(v, x + c);
        if (ADD) {
            load_few<W>(w, residual + c);
            for (int i = 0; i < W; i++) v[i] = to_accum(from_accum<T>(v[i] + w[i]));
            store_few<W>(total + c, v);
        }
        for (int i = 0; i < W; i++) squares[0] += v[i] * v[i];
    }
    row_sums(squares, scratch);
    A r = rsqrt(squares[0] / C + eps);
    for (int c = start; c < columns; c += step) {
        load_few<W>(v, (ADD ? total : x) + c);
        load_few<W>(w, weight + c);
        for (int i = 0; i < W; i++) v[i] *= r * w[i];
        store_few<W>(y + c, v);
    }
    return r;
}

template <bool ADD, typename T>
__device__ __forceinline__ void forward(T* y, T* total, accum<T>* rstd, const T* x,
                                        const T* residual, const T* weight, accum<T> eps, int N,
                                        int C) {
    __shared__ accum<T> scratch[MOST_WARPS][1];
    long long n = (long long)blockIdx.x * blockDim.y + threadIdx.y, at = n * C;
    int columns = n < N ? C : 0;  // no thread leaves: they meet at barriers
    bool packs = C % Pack<T>::N == 0 && aligned16(y) && aligned16(x) && aligned16(weight);
    if (ADD) packs = packs && aligned16(total) && aligned16(residual);
    x += at;
    y += at;
    if (ADD) total += at, residual += at;
    accum<T> r;
    if (packs && fits_in_registers<T>(C))
        r = forward_in_registers<ADD>(y, total, x, residual, weight, eps, C, columns, scratch);
    else if (packs)
        r = forward_reread<ADD, Pack<T>::N>(y, total, x, residual, weight, eps, C, columns,
                                            scratch);
    else
        r = forward_reread<ADD, 1>(y, total, x, residual, weight, eps, C, columns, scratch);
    if (n < N && threadIdx.x == 0) rstd[n] = r;
}

template <typename T>
__global__ void __launch_bounds__(MOST_LANES, sizeof(T) == 8 ? 2 : 3)
rms_norm_forward(T* y, accum<T>* rstd, const T* x, const T* weight, accum<T> eps, int N, int C) {
    forward<false, T>(y, nullptr, rstd, x, nullptr, weight, eps, N, C);
}

template <typename T>
__global__ void __launch_bounds__(MOST_LANES, sizeof(T) == 8 ? 2 : 3)
add_rms_norm_forward(T* y, T* total, accum<T>* rstd, const T* x, const T* residual,
                     const T* weight, accum<T> eps, int N, int C) {
    forward<true, T>(y, total, rstd, x, residual, weight, eps, N, C);
}

// ---------------------------------------------------------------- backward

template <bool ADD, typename T>
struct Row {
    Slice<T> dy, x, dtotal;
    accum<T> rstd;
};

// Row n; zeros where there is no such row.
template <bool ADD, typename T>
__device__ __forceinline__ Row<ADD, T> load_row(const T* dy, const T* dtotal, const T* x,
                                                const accum<T>* rstd, long long n, int N, int C) {
    bool exists = n < N;
    Row<ADD, T> row;
    row.dy = load_slice<true>(dy + n * C, exists ? C : 0);
    row.x = load_slice<true>(x + n * C, exists ? C : 0);
    if (ADD) row.dtotal = load_slice<true>(dtotal + n * C, exists ? C : 0);
    row.rstd = exists ? rstd[n] : accum<T>(0);
    return row;
}

template <bool ADD, typename T>
__device__ __forceinline__ void backward_in_registers(
    T* dx, accum<T>* partial, const T* dy, const T* dtotal, const T* x, const T* weight,
    const accum<T>* rstd, int N, int C, accum<T> (&scratch)[2][MOST_WARPS][1],
    accum<T> (&columns)[Slice<T>::ITEMS][THREADS / 2]) {
    using A = accum<T>;
    constexpr int W = Slice<T>::N, ITEMS = Slice<T>::ITEMS;
    Slice<T> w = load_slice<false>(weight, C);
    A dweight[ITEMS] = {}, one_of_C = A(1) / C;
    int rows = blockDim.y, turn = 0;
    long long first = (long long)blockIdx.x * rows, stride = (long long)gridDim.x * rows;
    Row<ADD, T> next = load_row<ADD>(dy, dtotal, x, rstd, first + threadIdx.y, N, C);
    for (; first < N; first += stride, turn ^= 1) {
        Row<ADD, T> row = next;
        long long n = first + threadIdx.y;
        next = load_row<ADD>(dy, dtotal, x, rstd, n + stride, N, C);
        A r = row.rstd, sum[1] = {0};  // of g xhat
        #pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            A dyxhat = row.dy.at(i) * (row.x.at(i) * r);
            sum[0] += dyxhat * w.at(i);
            dweight[i] += dyxhat;
        }
        row_sums(sum, scratch[turn]);
        A slope = -r * r * (sum[0] * one_of_C);  // dx = r (g - xhat mean(g xhat)) = g r + x slope
        #pragma unroll
        for (int p = 0; p < PACKS; p++) {
            A out[W];
            #pragma unroll
            for (int i = 0; i < W; i++) {
                int item = p * W + i;
                out[i] = row.dy.at(item) * w.at(item) * r + row.x.at(item) * slope;
                if (ADD) out[i] += row.dtotal.at(item);
            }
            if (n < N && column<T>(p) < C)
                store_once(dx + n * C + column<T>(p), rounded<T>(out));
        }
    }

    column_sums(dweight, columns);
    if (threadIdx.y > 0) return;
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = column<T>(p);
        if (c >= C) break;
        A dw[W];
        #pragma unroll
        for (int i = 0; i < W; i++) dw[i] = dweight[p * W + i];
        store_few<W>(partial + (long long)blockIdx.x * C + c, dw);
    }
}

// The same with W elements at a time, for any row: the lanes of a row find its sum, then all
// threads take columns of a few rows, read again, and add to the block's row of partial sums.
template <bool ADD, int W, typename T>
__device__ __noinline__ void backward_reread(
    T* dx, accum<T>* partial, const T* dy, const T* dtotal, const T* x, const T* weight,
    const accum<T>* rstd, int N, int C, accum<T> (&scratch)[2][MOST_WARPS][1],
    accum<T> (&means)[MOST_ROWS]) {
    using A = accum<T>;
    A d[W], v[W], w[W], dw[W] = {};
    int threads = blockDim.x * blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x;
    int rows = max((int)blockDim.y, 4), turn = 0;
    A* dweight = partial + (long long)blockIdx.x * C;
    for (int c = thread * W; c < C; c += threads * W) store_few<W>(dweight + c, dw);
    long long first = (long long)blockIdx.x * rows, stride = (long long)gridDim.x * rows;
    for (; first < N; first += stride) {
        for (int i = threadIdx.y; i < rows; i += blockDim.y, turn ^= 1) {
            long long n = first + i;
            int end = n < N ? C : 0;
            A sum[1] = {0}, r = n < N ? rstd[n] : A(0);
            #pragma unroll 2
            for (int c = threadIdx.x * W; c < end; c += blockDim.x * W) {
                load_few<W>(d, dy + n * C + c);
                load_few<W>(v, x + n * C + c);
                load_few<W>(w, weight + c);
                for (int j = 0; j < W; j++) sum[0] += d[j] * w[j] * (v[j] * r);
            }
            row_sums(sum, scratch[turn]);
            if (threadIdx.x == 0) means[i] = sum[0] / C;
        }
        __syncthreads();
        int some = first + rows < N ? rows : N - first;  // rows that there are
        for (int c = thread * W; c < C; c += threads * W) {
            load_few<W>(dw, dweight + c);
            #pragma unroll 2
            for (int i = 0; i < some; i++) {
                long long n = first + i, at = n * C + c;
                A r = rstd[n];
                load_few<W>(d, dy + at);
                load_few<W>(v, x + at);
                load_few<W>(w, weight + c);
                for (int j = 0; j < W; j++) {
                    A xhat = v[j] * r;
                    dw[j] += d[j] * xhat;
                    v[j] = r * (d[j] * w[j] - xhat * means[i]);
                }
                if (ADD) {
                    load_few<W>(d, dtotal + at);
                    for (int j = 0; j < W; j++) v[j] += d[j];
                }
                store_few<W>(dx + at, v);
            }
            store_few<W>(dweight + c, dw);
        }
        __syncthreads();  // the next rows' means take the place of these
    }
}

template <bool ADD, typename T>
__device__ __forceinline__ void backward(T* dx, accum<T>* partial, const T* dy, const T* dtotal,
                                         const T* x, const T* weight, const accum<T>* rstd, int N,
                                         int C) {
    using A = accum<T>;
    __shared__ A scratch[2][MOST_WARPS][1];
    __shared__ A columns[Slice<T>::ITEMS][THREADS / 2];
    __shared__ A means[MOST_ROWS];
    bool packs = C % Pack<T>::N == 0 && aligned16(dx) && aligned16(dy) && aligned16(x) &&
                 aligned16(weight) && (!ADD || aligned16(dtotal));
    if (packs && fits_in_registers<T>(C))
        backward_in_registers<ADD>(dx, partial, dy, dtotal, x, weight, rstd, N, C, scratch,
                                   columns);
    else if (packs)
        backward_reread<ADD, Pack<T>::N>(dx, partial, dy, dtotal, x, weight, rstd, N, C, scratch,
                                         means);
    else
        backward_reread<ADD, 1>(dx, partial, dy, dtotal, x, weight, rstd, N, C, scratch, means);
}

// partial is (gridDim.x, C): a row of dweight for each block.
template <typename T>
__global__ void __launch_bounds__(MOST_LANES, 1)
rms_norm_backward(T* dx, accum<T>* partial, const T* dy, const T* x, const T* weight,
                  const accum<T>* rstd, int N, int C) {
    backward<false, T>(dx, partial, dy, nullptr, x, weight, rstd, N, C);
}

template <typename T>
__global__ void __launch_bounds__(MOST_LANES, 1)
add_rms_norm_backward(T* dx, accum<T>* partial, const T* dy, const T* dtotal, const T* total,
                      const T* weight, const accum<T>* rstd, int N, int C) {
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
