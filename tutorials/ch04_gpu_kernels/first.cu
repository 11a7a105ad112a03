// Chapter 4, the first kernels of the text: a thread an element, and what their accesses move.

constexpr int THREADS = 128; // a block

// y = factor x, (n,)
__global__ void scale(float* y, const float* x, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = factor * x[i];
}

// y (n,) = every stride-th element of x, (n stride,)
__global__ void every(float* y, const float* x, int stride, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i * stride];
}

// y (C, N) = x (N, C) transposed; threads along x take columns
__global__ void transpose_naive(float* y, const float* x, int N, int C) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, n = blockIdx.y * blockDim.y + threadIdx.y;
    if (n < N && c < C) y[c * N + n] = x[n * C + c];
}
