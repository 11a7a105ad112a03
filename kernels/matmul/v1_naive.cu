// Matrix product, step 1: one thread an element of c, neighbours in a warp one row apart.
//
// Each thread reads its row of a and its column of b and adds up K products: 2 K loads for 2 K
// operations. Where that many loads are served decides everything, and here they are served badly.
// The 32 threads of a warp are 32 rows of one column: with a row-major, their loads of a lie K
// elements apart, 32 sectors of 32 bytes for 128 bytes that are used. (b is one address for all of
// them.) The elements of c lie N apart, so that storing them touches 32 sectors too.
//
// a and b may have any strides: transposed views are read where they are.
#include "strides.cuh"
#include "types.cuh"

constexpr int ROWS = 32, COLUMNS = 8;        // of c, a block
constexpr int THREADS = ROWS * COLUMNS;

template <typename T>
__global__ void __launch_bounds__(THREADS)
    matmul(T* c, const T* a, const T* b, MatrixStrides a_at, MatrixStrides b_at, Batch batch,
           long long batches, int M, int N, int K) {
    int tiles = (N + COLUMNS - 1) / COLUMNS;
    int i = blockIdx.x / tiles * ROWS + threadIdx.x % ROWS;
    int j = blockIdx.x % tiles * COLUMNS + threadIdx.x / ROWS;
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
