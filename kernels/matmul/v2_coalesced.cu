// Matrix product, step 2: neighbours in a warp are neighbours in a row of c.
//
// Only the two lines that say which element a thread computes differ from step 1. The 32 threads of
// a warp now are 32 columns of one row: they load one element of a, the same for all, and 32
// neighbours of b, four full sectors with b row-major; they store four full sectors of c. Sectors a
// warp and step of k: 1 + 4 instead of 32 + 1.
//
// What is left: two loads for every multiply-add, from L1 for the most part. An SM can do 128
// multiply-adds a cycle, but L1 serves one load of a warp a cycle at best: with 2 loads for the 32
// multiply-adds of a warp, 16 a cycle are the limit. And where b is a transposed view, as in a
// linear layer's x W^T, its 32 sectors are back.
#include "strides.cuh"
#include "types.cuh"

constexpr int ROWS = 8, COLUMNS = 32;        // of c, a block
constexpr int THREADS = ROWS * COLUMNS;

template <typename T>
__global__ void __launch_bounds__(THREADS)
    matmul(T* c, const T* a, const T* b, MatrixStrides a_at, MatrixStrides b_at, Batch batch,
           long long batches, int M, int N, int K) {
    int tiles = (N + COLUMNS - 1) / COLUMNS;
    int i = blockIdx.x / tiles * ROWS + threadIdx.x / COLUMNS;
    int j = blockIdx.x % tiles * COLUMNS + threadIdx.x % COLUMNS;
    if (i >= M || j >= N) return;
    for (long long n = blockIdx.z; n < batches; n += gridDim.z) {  // gridDim.z ends at 65535
        const T* x = matrix(a, a_at, batch, n) + i * a_at.row;
        const T* y = matrix(b, b_at, batch, n) + j * b_at.column;
        accum<T> total = 0;
        for (int k = 0; k < K; k++) {
            total += to_accum(*x) * to_accum(*y);
            x += a_at.column;
            y += b_at.row;
        }
        c[(n * M + i) * N + j] = from_accum<T>(total);
    }
}
