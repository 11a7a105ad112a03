// Matrix product, step 3: tiles of a and b in shared memory, 8 x 8 elements of c in registers.
//
// A block computes 64 x 64 elements of c. Step by step it brings 8 columns of 64 rows of a and 8
// rows of 64 columns of b into shared memory, then multiplies from there. Global loads for each
// multiply-add: 2 x 64 x 8 / (64 x 64 x 8) = 1/32, where steps 1 and 2 have 2. They are started one
// step ahead, and arrive while the tiles before them are multiplied.
//
// Shared memory is no faster to read than L1, so each thread keeps 8 x 8 elements of c: for every k
// it reads 8 + 8 numbers, four 16-byte loads, and does 64 multiply-adds with them.
//
// A tile is loaded along the dimension in which its matrix is contiguous, whichever that is: a
// transposed view moves as few sectors as a plain one. In a tile, neighbours are lines (rows of a,
// columns of b), and each k is PITCH after the one before. A warp that loads along k stores 8 k of
// 4 lines: with a PITCH of 64 all k of a line would fall on one bank, 8 turns for one store; with 4
// more, the 32 elements fall on 32 banks.
//
// What is left: tiles of 4-byte loads through registers, elements of c stored one by one (a quarter
// of each sector at a time), and multiply-adders where newer GPUs have tensor cores.
//
// asserts: no spills
// asserts matmul<float>: registers <= 168
// asserts matmul<bf16>: registers <= 168
#include "strides.cuh"
#include "types.cuh"

constexpr int SIDE = 64, ROWS = SIDE, COLUMNS = SIDE;  // of c, a block
constexpr int DEPTH = 8;                               // of k, a step
constexpr int EACH = 8, ACROSS = SIDE / EACH;          // 8 x 8 of c a thread, 8 x 8 threads
constexpr int THREADS = ACROSS * ACROSS;
constexpr int PITCH = SIDE + 4;

// What one thread brings of every tile of a matrix: EACH elements, of EACH lines or of all k.
template <typename T>
struct Share {
    const T* from;                // the first of them in the next tile
    long long step, tile_step;    // from each to the next, and to the same of the next tile
    int line, k, lines;           // where the first belongs in a tile; how many lines are inside
    bool along_k;
    T element[EACH];

    // The matrix has `lines` lines `line_stride` apart, their elements `k_stride` apart.
    __device__ __forceinline__ Share(const T* matrix, long long line_stride, long long k_stride,
                                     int first, int total) {
        along_k = abs(k_stride) < abs(line_stride);
        line = along_k ? threadIdx.x / DEPTH : threadIdx.x;
        k = along_k ? threadIdx.x % DEPTH : 0;
        lines = total - first - line;
        from = matrix + (first + line) * line_stride + k * k_stride;
        step = along_k ? THREADS / DEPTH * line_stride : k_stride;
        tile_step = DEPTH * k_stride;
    }

    // `depth` elements of each line are left in the matrix; what is beyond it counts as 0.
    __device__ __forceinline__ void load(int depth) {
        int inside = along_k ? (k < depth ? (lines + 7) / 8 : 0) : (lines > 0 ? depth : 0);
        const T* p = from;
        #pragma unroll
        for (int e = 0; e < EACH; e++) {
            element[e] = e < inside ? *p : from_accum<T>(0);
            p += step;
        }
        from += tile_step;
    }

    __device__ __forceinline__ void store(accum<T> (*tile)[PITCH]) const {
        accum<T>* to = &tile[k][line];
        int apart = along_k ? THREADS / DEPTH : PITCH;
        #pragma unroll
        for (int e = 0; e < EACH; e++) to[e * apart] = to_accum(element[e]);
    }
};

// Which of a tile's lines is number e of thread t: groups of 4 neighbours, for 16-byte loads, such
// that the groups of neighbouring threads lie side by side and use different banks.
__device__ __forceinline__ int place(int t, int e) { return (e / 4 * ACROSS + t) * 4 + e % 4; }

template <typename T>
__global__ void __launch_bounds__(THREADS, sizeof(T) == 8 ? 1 : 6)
    matmul(T* c, const T* a, const T* b, MatrixStrides a_at, MatrixStrides b_at, Batch batch,
           long long batches, int M, int N, int K) {
    using A = accum<T>;
    __shared__ A tile_a[DEPTH][PITCH];
    __shared__ A tile_b[DEPTH][PITCH];
    int tiles = (N + COLUMNS - 1) / COLUMNS;
    int i0 = blockIdx.x / tiles * ROWS, j0 = blockIdx.x % tiles * COLUMNS;
    int row = threadIdx.x / ACROSS, column = threadIdx.x % ACROSS;

    for (long long n = blockIdx.z; n < batches; n += gridDim.z) {  // gridDim.z ends at 65535
        Share<T> x(matrix(a, a_at, batch, n), a_at.row, a_at.column, i0, M);
        Share<T> y(matrix(b, b_at, batch, n), b_at.column, b_at.row, j0, N);
        A total[EACH][EACH] = {};
        x.load(K);
        y.load(K);
        for (int k0 = 0; k0 < K; k0 += DEPTH) {
            __syncthreads();  // the tiles before these have been read
            x.store(tile_a);
            y.store(tile_b);
            __syncthreads();
            x.load(K - k0 - DEPTH);
            y.load(K - k0 - DEPTH);
            #pragma unroll 4
            for (int k = 0; k < DEPTH; k++) {
                A of_a[EACH], of_b[EACH];
                #pragma unroll
                for (int e = 0; e < EACH; e++) {
                    of_a[e] = tile_a[k][place(row, e)];
                    of_b[e] = tile_b[k][place(column, e)];
                }
                #pragma unroll
                for (int r = 0; r < EACH; r++)
                    #pragma unroll
                    for (int s = 0; s < EACH; s++) total[r][s] += of_a[r] * of_b[s];
            }
        }
        #pragma unroll
        for (int r = 0; r < EACH; r++)
            #pragma unroll
            for (int s = 0; s < EACH; s++) {
                int i = i0 + place(row, r), j = j0 + place(column, s);
                if (i < M && j < N) c[(n * M + i) * N + j] = from_accum<T>(total[r][s]);
            }
    }
}
