// Embedding, step 1: one thread an element of the result.
//
// Forward, every thread finds its row and column by a division and copies 2 to 8 bytes. Neighbours
// copy neighbours, but the division costs more instructions than the rest, and a thread waits for
// its id with nothing else on the way.
//
// Backward, a thread goes through all N ids and adds the gradients of those that ask for its row:
// the order of n, no atomics, nothing to prepare; and V C N comparisons. With V = 50257 and N =
// 16384 each id is read 50257 C times, from the caches, for a gradient that is read once.
#include "types.cuh"

constexpr int THREADS = 256;       // a block
constexpr int ITEMS = 1;           // elements of y a thread
constexpr int SORTS = 0;           // the backward kernel takes the ids as they come

// size = N C, of y.
template <typename T>
__global__ void embedding_forward(T* y, const T* weight, const long long* ids, long long size,
                                  int C) {
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i < size) y[i] = weight[ids[i / C] * C + i % C];
}

template <typename T>
__global__ void embedding_backward(T* dweight, const T* dy, const long long* ids, int N, int V,
                                   int C) {
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (long long)V * C) return;
    long long row = i / C;
    int column = i % C;
    accum<T> sum = 0;
    for (int n = 0; n < N; n++)
        if (ids[n] == row) sum += to_accum(dy[(long long)n * C + column]);
    dweight[i] = from_accum<T>(sum);
}
