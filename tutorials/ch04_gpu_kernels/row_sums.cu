// Chapter 4, exercise 3: the sum of each row, one block a row.
//
// In: x (N, C). Out: sums (N,), by a grid of N blocks of THREADS threads. Each thread first adds
// the elements threadIdx.x, threadIdx.x + THREADS, ... of its row, which may be fewer than there
// are threads, or none; then the block adds the threads' sums as a tree, in `partial`.

constexpr int THREADS = 128; // a block: a power of two

__global__ void row_sums(float* sums, const float* x, int C) {
    __shared__ float partial[THREADS];
    const float* row = x + (long long)blockIdx.x * C;
    // hole 3: the thread's own sum, the tree, and one store
    float sum = 0;
    for (int c = threadIdx.x; c < C; c += THREADS) sum += row[c];
    partial[threadIdx.x] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = partial[0];
    // end of hole
}
