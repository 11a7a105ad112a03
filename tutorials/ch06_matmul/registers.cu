// c = a b, the step after tiled.cu of chapter 06: 4 x 4 elements of c a thread, in registers.
//
// A block computes 64 x 64 elements of c with 16 x 16 threads. A thread's rows lie 16 apart, and so
// do its columns: neighbouring threads touch neighbouring columns, on neighbouring banks. For each k
// it reads 4 numbers of a and 4 of b from shared memory and does 16 multiply-adds with them, where
// tiled.cu reads 2 numbers for one.
constexpr int SIDE = 64, DEPTH = 16;  // a block: SIDE x SIDE of c, DEPTH of k at a time
constexpr int ACROSS = 16;            // threads across and down
constexpr int EACH = SIDE / ACROSS;   // a thread: EACH x EACH of c

__global__ void __launch_bounds__(ACROSS * ACROSS)
    registers(float* c, const float* a, const float* b, int M, int N, int K) {
    __shared__ float tile_a[SIDE][DEPTH];
    __shared__ float tile_b[DEPTH][SIDE];
    int x = threadIdx.x, y = threadIdx.y, thread = y * ACROSS + x;
    int i0 = blockIdx.y * SIDE, j0 = blockIdx.x * SIDE;
    float total[EACH][EACH] = {};
    for (int k0 = 0; k0 < K; k0 += DEPTH) {
        for (int n = thread; n < SIDE * DEPTH; n += ACROSS * ACROSS) {
            int row = n / DEPTH, k = n % DEPTH;
            tile_a[row][k] = i0 + row < M && k0 + k < K ? a[(i0 + row) * K + k0 + k] : 0;
        }
        for (int n = thread; n < SIDE * DEPTH; n += ACROSS * ACROSS) {
            int k = n / SIDE, column = n % SIDE;
            tile_b[k][column] = k0 + k < K && j0 + column < N ? b[(k0 + k) * N + j0 + column] : 0;
        }
        __syncthreads();
        for (int k = 0; k < DEPTH; k++) {
            float of_a[EACH], of_b[EACH];
            for (int e = 0; e < EACH; e++) {
                of_a[e] = tile_a[y + ACROSS * e][k];
                of_b[e] = tile_b[k][x + ACROSS * e];
            }
            for (int r = 0; r < EACH; r++)
                for (int s = 0; s < EACH; s++) total[r][s] += of_a[r] * of_b[s];
        }
        __syncthreads();
    }
    for (int r = 0; r < EACH; r++)
        for (int s = 0; s < EACH; s++) {
            int i = i0 + y + ACROSS * r, j = j0 + x + ACROSS * s;
            if (i < M && j < N) c[i * N + j] = total[r][s];
        }
}
