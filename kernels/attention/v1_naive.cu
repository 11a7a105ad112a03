// Attention, step 1: a block for each query; backward, another for each key, to add up dk and dv.
//
// The formulas as they stand. A block takes the keys of its query a chunk at a time: each thread
// computes the score of one key; then the block turns around, and each thread adds up one channel
// of the output over the chunk. Scores live in shared memory while their chunk lasts and are
// computed again where they are needed again, so nothing of size T x S is ever stored.
//
// Slow, for three reasons. Every query reads all its keys and values: for 1024 queries and keys
// with D = 64 in float, 1024 x 1024 x 64 x 4 bytes, times 3 (keys twice, values once), are 805 MB a
// head, where q, k, v and out together have 1 MB. Each of those loads feeds one multiply-add. And
// threads without a key, or without a channel where D is below THREADS, wait. FlashAttention brings
// tiles of keys to a tile of queries, so that a load serves them all and tensor cores can multiply;
// its online softmax saves the pass that looks for the largest score.
//
// q, k, v, dout and out may have any strides but in their last dimension. The order of every sum is
// fixed: results are the same to the bit in every run. N is T of the formulas: T is the type here.
//
// asserts: no spills
#include "reduce.cuh"
#include "strides.cuh"
#include "types.cuh"

constexpr int THREADS = 128;

template <typename T>
__device__ __forceinline__ const T* row_of(const T* x, const HeadStrides& at, int b, int h, int t) {
    return x + b * at.batch + h * at.head + t * at.time;
}

template <typename T>
__device__ __forceinline__ accum<T> dot(const T* x, const T* y, int D) {
    accum<T> total = 0;
    for (int d = 0; d < D; d++) total += to_accum(x[d]) * to_accum(y[d]);
    return total;
}

// out is (B, T, H, D), lse (B, H, T); one block for each (b, h, i).
template <typename T>
__global__ void __launch_bounds__(THREADS)
    attention_forward(T* out, accum<T>* lse, const T* q, const T* k, const T* v, HeadStrides q_at,
                      HeadStrides k_at, HeadStrides v_at, accum<T> scale, bool causal, int H, int G,
                      int N, int S, int D) {
    using A = accum<T>;
    __shared__ A p[THREADS];
    int i = blockIdx.x % N, h = blockIdx.x / N % H, b = blockIdx.x / N / H, g = h / (H / G);
    int keys = causal ? min(S, i + 1) : S;
    const T* query = row_of(q, q_at, b, h, i);

    A largest = -__int_as_float(0x7f800000);
    for (int j = threadIdx.x; j < keys; j += THREADS)
        largest = max(largest, scale * dot(query, row_of(k, k_at, b, g, j), D));
    largest = block_max<THREADS>(largest);

    int d = threadIdx.x;
    do {  // once, unless there are more channels than threads
        A total = 0, weighted = 0;
        for (int j0 = 0; j0 < keys; j0 += THREADS) {
            int j = j0 + threadIdx.x, count = min(THREADS, keys - j0);
            __syncthreads();  // the chunk before this one has been read
            if (j < keys)
                p[threadIdx.x] = exp(scale * dot(query, row_of(k, k_at, b, g, j), D) - largest);
            __syncthreads();
            const T* values = row_of(v, v_at, b, g, j0);
            for (int c = 0; c < count; c++) {
                total += p[c];
                if (d < D) weighted += p[c] * to_accum(values[c * v_at.time + d]);
            }
        }
        if (d < D) out[(((long long)b * N + i) * H + h) * D + d] = from_accum<T>(weighted / total);
        if (d == 0) lse[blockIdx.x] = largest + log(total);
        d += THREADS;
    } while (d - threadIdx.x < D);
}

// delta_i = dout_i . out_i, (B, H, T); one thread for each.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    attention_delta(accum<T>* delta, const T* dout, const T* out, HeadStrides dout_at,
                    HeadStrides out_at, int H, int N, int D, long long queries) {
    long long n = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (n >= queries) return;
    int i = n % N, h = n / N % H, b = n / N / H;
    delta[n] = dot(row_of(dout, dout_at, b, h, i), row_of(out, out_at, b, h, i), D);
}

// dq (B, T, H, D); one block for each (b, h, i).
template <typename T>
__global__ void __launch_bounds__(THREADS)
    attention_backward(T* dq, const T* dout, const T* q, const T* k, const T* v,
                       HeadStrides dout_at, HeadStrides q_at, HeadStrides k_at, HeadStrides v_at,
                       const accum<T>* lse, const accum<T>* delta, accum<T> scale, bool causal,
                       int H, int G, int N, int S, int D) {
    using A = accum<T>;
    __shared__ A ds[THREADS];
    int i = blockIdx.x % N, h = blockIdx.x / N % H, b = blockIdx.x / N / H, g = h / (H / G);
    int keys = causal ? min(S, i + 1) : S;
    const T *query = row_of(q, q_at, b, h, i), *slope = row_of(dout, dout_at, b, h, i);
    A lse_i = lse[blockIdx.x], delta_i = delta[blockIdx.x];

    for (int d0 = 0; d0 < D; d0 += THREADS) {
        int d = d0 + threadIdx.x;
        A total = 0;
        for (int j0 = 0; j0 < keys; j0 += THREADS) {
            int j = j0 + threadIdx.x, count = min(THREADS, keys - j0);
            __syncthreads();
            if (j < keys) {
                A p = exp(scale * dot(query, row_of(k, k_at, b, g, j), D) - lse_i);
                ds[threadIdx.x] = p * (dot(slope, row_of(v, v_at, b, g, j), D) - delta_i);
            }
            __syncthreads();
            if (d >= D) continue;
            const T* chunk = row_of(k, k_at, b, g, j0);
            for (int c = 0; c < count; c++) total += ds[c] * to_accum(chunk[c * k_at.time + d]);
        }
        if (d < D) dq[(((long long)b * N + i) * H + h) * D + d] = from_accum<T>(scale * total);
    }
}

// dk, dv (B, S, G, D); one block for each (b, g, j), over all queries of the group's heads.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    attention_backward_keys(T* dk, T* dv, const T* dout, const T* q, const T* k, const T* v,
                            HeadStrides dout_at, HeadStrides q_at, HeadStrides k_at,
                            HeadStrides v_at, const accum<T>* lse, const accum<T>* delta,
                            accum<T> scale, bool causal, int H, int G, int N, int S, int D) {
    using A = accum<T>;
    __shared__ A p[THREADS];
    __shared__ A ds[THREADS];
    int j = blockIdx.x % S, g = blockIdx.x / S % G, b = blockIdx.x / S / G, heads = H / G;
    const T *key = row_of(k, k_at, b, g, j), *value = row_of(v, v_at, b, g, j);

    for (int d0 = 0; d0 < D; d0 += THREADS) {
        int d = d0 + threadIdx.x;
        A dk_total = 0, dv_total = 0;
        for (int h = g * heads; h < (g + 1) * heads; h++)
            for (int i0 = causal ? j : 0; i0 < N; i0 += THREADS) {
                int i = i0 + threadIdx.x, count = min(THREADS, N - i0);
                __syncthreads();
                if (i < N) {
                    long long n = ((long long)b * H + h) * N + i;
                    A e = exp(scale * dot(row_of(q, q_at, b, h, i), key, D) - lse[n]);
                    p[threadIdx.x] = e;
                    A dp = dot(row_of(dout, dout_at, b, h, i), value, D);
                    ds[threadIdx.x] = e * (dp - delta[n]);
                }
                __syncthreads();
                if (d >= D) continue;
                const T *queries = row_of(q, q_at, b, h, i0);
                const T *slopes = row_of(dout, dout_at, b, h, i0);
                for (int c = 0; c < count; c++) {
                    dk_total += ds[c] * to_accum(queries[c * q_at.time + d]);
                    dv_total += p[c] * to_accum(slopes[c * dout_at.time + d]);
                }
            }
        if (d >= D) continue;
        long long place = (((long long)b * S + j) * G + g) * D + d;
        dk[place] = from_accum<T>(scale * dk_total);
        dv[place] = from_accum<T>(dv_total);
    }
}
