// Chapter 5, exercise 5: softmax in one kernel, one block a row.
//
// In: x (N, C), C at least 1; elements may be -inf, but not a whole row. Out: y (N, C), by a grid of
// N blocks of THREADS threads. Thread t takes the elements t, t + THREADS, ... of its row, in each
// of three passes: the largest, the sum of exponentials, the results.

constexpr int THREADS = 128; // a block: a power of two

__device__ float minus_infinity() { return __uint_as_float(0xff800000); }

// The largest of the values that the block's threads bring, given to all of them. Every thread must
// call it. It leaves `partial` in use: before that is written again, wait until all have returned.
__device__ float block_max(float value, float* partial) {
    partial[threadIdx.x] = value;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            partial[threadIdx.x] = fmaxf(partial[threadIdx.x], partial[threadIdx.x + half]);
    }
    __syncthreads();
    return partial[0];
}

// The same for their sum.
__device__ float block_sum(float value, float* partial) {
    partial[threadIdx.x] = value;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    __syncthreads();
    return partial[0];
}

__global__ void softmax(float* y, const float* x, int C) {
    __shared__ float partial[THREADS];
    const float* row = x + (long long)blockIdx.x * C;
    float* out = y + (long long)blockIdx.x * C;
    // hole 5: three passes over the row, two block-wide results, and a barrier between those
    float largest = minus_infinity();
    for (int c = threadIdx.x; c < C; c += THREADS) largest = fmaxf(largest, row[c]);
    largest = block_max(largest, partial);
    __syncthreads();
    float total = 0;
    for (int c = threadIdx.x; c < C; c += THREADS) total += expf(row[c] - largest);
    total = block_sum(total, partial);
    for (int c = threadIdx.x; c < C; c += THREADS) out[c] = expf(row[c] - largest) / total;
    // end of hole
}
