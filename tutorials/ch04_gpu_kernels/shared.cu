// Chapter 4, kernels of the text whose threads meet: in shared memory, at barriers, by shuffles.

constexpr int THREADS = 128; // a block
constexpr int ROW = 32;      // floats in a row of `columns`

// y (THREADS,) = x reversed
__global__ void reverse(float* y, const float* x) {
    __shared__ float s[THREADS];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[THREADS - 1 - threadIdx.x];
}

// y (32,): one warp writes a tile of 32 rows, row by row, and adds it up, a row a thread: each
// thread walks along its own row, so that at any moment the warp reads a column.
__global__ void columns(float* y) {
    __shared__ float tile[32][ROW];
    int lane = threadIdx.x;
    for (int r = 0; r < 32; r++) tile[r][lane] = r;
    __syncwarp();
    float sum = 0;
    for (int c = 0; c < 32; c++) sum += tile[lane][c];
    y[lane] = sum;
}

// sums (blocks,): of THREADS elements of x each, added as a tree in shared memory
__global__ void tree_sums(float* sums, const float* x, int n) {
    __shared__ float s[THREADS];
    int i = blockIdx.x * THREADS + threadIdx.x;
    s[threadIdx.x] = i < n ? x[i] : 0;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = s[0];
}

// The same, lane to lane within each warp, then over the warps
__global__ void shuffle_sums(float* sums, const float* x, int n) {
    __shared__ float of_warp[THREADS / 32];
    int i = blockIdx.x * THREADS + threadIdx.x, lane = threadIdx.x % 32;
    float sum = i < n ? x[i] : 0;
    for (int distance = 16; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(0xffffffff, sum, distance);
    if (lane == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        sum = 0;
        for (int w = 0; w < THREADS / 32; w++) sum += of_warp[w];
        sums[blockIdx.x] = sum;
    }
}

// total (1,): every thread adds its element to one number, in whatever order they come
__global__ void atomic_sum(float* total, const float* x, int n) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < n) atomicAdd(total, x[i]);
}
