// Cross-entropy, step 2: one block a row.
//
// Before: a warp read 32 rows at once, a sector for each element, and few threads were at work. Now
// 256 threads read neighbours of one row: 32 floats are 128 bytes, 4 sectors and every byte of them
// wanted, an eighth of the traffic; 2048 rows are 2048 blocks. Maxima and sums meet by shuffles in
// each warp and through shared memory between the 8 warps. Still a row is read three times: of
// 50304 classes, 101 KB in bf16, the thousand rows that run at once do not fit the 50 MB of the
// second-level cache, so 4 times V elements move where 2 would do.
//
// dlogits may be logits: the last pass writes what it alone has read.
#include "reduce.cuh"
#include "types.cuh"

constexpr int THREADS = 256;  // a block: one row
constexpr int LEAST_ROW_THREADS = 256, MOST_ROW_THREADS = 256, THREAD_BYTES = 1;
constexpr int KEPT_BYTES = 0;  // of its rows that a block keeps: step 3 has `slots` for them

template <typename A>
struct Sums {
    A largest, total;
};

template <typename T>
__device__ Sums<accum<T>> sums_of(const T* x, int V) {
    using A = accum<T>;
    A largest = to_accum(x[min((int)threadIdx.x, V - 1)]), total = 0;
    for (int c = threadIdx.x; c < V; c += THREADS) largest = max(largest, to_accum(x[c]));
    largest = block_max<THREADS>(largest);
    for (int c = threadIdx.x; c < V; c += THREADS) total += exp(to_accum(x[c]) - largest);
    return {largest, block_sum<THREADS>(total)};
}

template <typename T>
__device__ accum<T> loss_of(const T* x, int V, long long target, accum<T> smoothing,
                            Sums<accum<T>> sums) {
    using A = accum<T>;
    A distance = sums.largest - to_accum(x[target]);
    if (smoothing != 0) {  // else 0 times an infinite distance would be NaN
        A below = 0;
        for (int c = threadIdx.x; c < V; c += THREADS) below += sums.largest - to_accum(x[c]);
        distance = (1 - smoothing) * distance + smoothing * (block_sum<THREADS>(below) / V);
    }
    return log(sums.total) + distance;
}

template <typename T>
__global__ void cross_entropy_forward(accum<T>* losses, const T* logits, const long long* targets,
                                      long long ignore_index, accum<T> label_smoothing, int N,
                                      int V, int slots) {
    int n = blockIdx.x;
    const T* x = logits + (long long)n * V;
    accum<T> loss = 0;
    if (targets[n] != ignore_index)
        loss = loss_of(x, V, targets[n], label_smoothing, sums_of(x, V));
    if (threadIdx.x == 0) losses[n] = loss;
}

template <typename T>
__global__ void cross_entropy_forward_backward(accum<T>* losses, T* dlogits, const T* logits,
                                               const long long* targets, long long ignore_index,
                                               accum<T> label_smoothing, int N, int V, int slots) {
    using A = accum<T>;
    int n = blockIdx.x;
    const T* x = logits + (long long)n * V;
    T* dx = dlogits + (long long)n * V;
    long long target = targets[n];
    if (target == ignore_index) {
        if (threadIdx.x == 0) losses[n] = 0;
        for (int c = threadIdx.x; c < V; c += THREADS) dx[c] = from_accum<T>(0);
        return;
    }
    Sums<A> sums = sums_of(x, V);
    A loss = loss_of(x, V, target, label_smoothing, sums);
    if (threadIdx.x == 0) losses[n] = loss;
    __syncthreads();  // all have read the target's logit
    for (int c = threadIdx.x; c < V; c += THREADS) {
        A p = exp(to_accum(x[c]) - sums.largest) / sums.total;
        A wanted = (c == target ? 1 - label_smoothing : 0) + label_smoothing / V;
        dx[c] = from_accum<T>(p - wanted);
    }
}
