// Chapter 5, kernels of the text: layer norm as four kernels, and as one. A block is a warp, which
// takes a row: block (32), grid (N).

__device__ float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}

// mean (N,) of each row of x (N, C)
__global__ void row_mean(float* mean, const float* x, int C) {
    const float* row = x + (long long)blockIdx.x * C;
    float sum = 0;
    for (int c = threadIdx.x; c < C; c += 32) sum += row[c];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) mean[blockIdx.x] = sum / C;
}

// centred (N, C) = x - mean
__global__ void subtract_mean(float* centred, const float* x, const float* mean, int C) {
    long long start = (long long)blockIdx.x * C;
    for (int c = threadIdx.x; c < C; c += 32) centred[start + c] = x[start + c] - mean[blockIdx.x];
}

// rstd (N,) of rows that have mean 0
__global__ void row_rstd(float* rstd, const float* centred, float eps, int C) {
    const float* row = centred + (long long)blockIdx.x * C;
    float sum = 0;
    for (int c = threadIdx.x; c < C; c += 32) sum += row[c] * row[c];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) rstd[blockIdx.x] = rsqrtf(sum / C + eps);
}

// y (N, C) = centred rstd weight + bias
__global__ void scale(float* y, const float* centred, const float* rstd, const float* weight,
                      const float* bias, int C) {
    long long start = (long long)blockIdx.x * C;
    for (int c = threadIdx.x; c < C; c += 32)
        y[start + c] = centred[start + c] * rstd[blockIdx.x] * weight[c] + bias[c];
}

// All of it: the row is read once, and stays in shared memory. Each lane sees what it wrote itself.
__global__ void fused(float* y, float* mean, float* rstd, const float* x, const float* weight,
                      const float* bias, float eps, int C) {
    extern __shared__ float row[]; // C floats
    long long start = (long long)blockIdx.x * C;
    float sum = 0;
    for (int c = threadIdx.x; c < C; c += 32) {
        row[c] = x[start + c];
        sum += row[c];
    }
    float m = warp_sum(sum) / C;
    sum = 0;
    for (int c = threadIdx.x; c < C; c += 32) sum += (row[c] - m) * (row[c] - m);
    float r = rsqrtf(warp_sum(sum) / C + eps);
    for (int c = threadIdx.x; c < C; c += 32) y[start + c] = (row[c] - m) * r * weight[c] + bias[c];
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = m;
        rstd[blockIdx.x] = r;
    }
}
