// Cross-entropy, step 1: one thread a row.
//
// The formula as it stands: maximum, sum, gradient, three passes over the row. Simple, and slow: a
// warp's 32 threads read 32 different rows, so each element of theirs lies in a 32-byte sector of
// its own. A GPU moves 8 times the bytes that a float needs (16 times for bf16), three times over,
// and the 2048 rows of a training step put 2048 threads to work where 270,000 have room.
//
// dlogits may be logits: a row's loss is made before the first of its elements is overwritten.
#include "types.cuh"

constexpr int THREADS = 128;  // a block
constexpr int LEAST_ROW_THREADS = 1, MOST_ROW_THREADS = 1, THREAD_BYTES = 1;
constexpr int KEPT_BYTES = 0;  // of its rows that a block keeps: step 3 has `slots` for them

template <typename A>
struct Sums {
    A largest, total;
};

template <typename T>
__device__ Sums<accum<T>> sums_of(const T* x, int V) {
    using A = accum<T>;
    A largest = to_accum(x[0]), total = 0;
    for (int c = 1; c < V; c++) largest = max(largest, to_accum(x[c]));
    for (int c = 0; c < V; c++) total += exp(to_accum(x[c]) - largest);
    return {largest, total};
}

template <typename T>
__device__ accum<T> loss_of(const T* x, int V, long long target, accum<T> smoothing,
                            Sums<accum<T>> sums) {
    using A = accum<T>;
    A distance = sums.largest - to_accum(x[target]);
    if (smoothing != 0) {  // else 0 times an infinite distance would be NaN
        A below = 0;
        for (int c = 0; c < V; c++) below += sums.largest - to_accum(x[c]);
        distance = (1 - smoothing) * distance + smoothing * (below / V);
    }
    return log(sums.total) + distance;
}

template <typename T>
__global__ void cross_entropy_forward(accum<T>* losses, const T* logits, const long long* targets,
                                      long long ignore_index, accum<T> label_smoothing, int N,
                                      int V, int slots) {
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    const T* x = logits + (long long)n * V;
    if (targets[n] == ignore_index)
        losses[n] = 0;
    else
        losses[n] = loss_of(x, V, targets[n], label_smoothing, sums_of(x, V));
}

template <typename T>
__global__ void cross_entropy_forward_backward(accum<T>* losses, T* dlogits, const T* logits,
                                               const long long* targets, long long ignore_index,
                                               accum<T> label_smoothing, int N, int V, int slots) {
    using A = accum<T>;
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    const T* x = logits + (long long)n * V;
    T* dx = dlogits + (long long)n * V;
    long long target = targets[n];
    if (target == ignore_index) {
        losses[n] = 0;
        for (int c = 0; c < V; c++) dx[c] = from_accum<T>(0);
        return;
    }
    Sums<A> sums = sums_of(x, V);
    losses[n] = loss_of(x, V, target, label_smoothing, sums);
    for (int c = 0; c < V; c++) {
        A p = exp(to_accum(x[c]) - sums.largest) / sums.total;
        A wanted = (c == target ? 1 - label_smoothing : 0) + label_smoothing / V;
        dx[c] = from_accum<T>(p - wanted);
    }
}
