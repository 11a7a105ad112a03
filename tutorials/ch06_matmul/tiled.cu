// c = a b by tiles in shared memory: your file for exercise 6.3 of chapter 06.
//
// Arrays, grid and threads are those of naive.cu. A block walks along k, TILE at a time: it brings a
// tile of a and a tile of b into shared memory, each thread one element of either, then each thread
// takes from there the row and the column that it needs. Every element that is brought serves TILE
// threads. What lies beyond the edge of a matrix counts as 0.
//
// Judged: the values; races; sectors of global memory, as few as tiles need; bank conflicts, none.
constexpr int TILE = 32;

__global__ void __launch_bounds__(TILE * TILE)
    tiled(float* c, const float* a, const float* b, int M, int N, int K) {
    __shared__ float tile_a[TILE][TILE];  // [row][k]
    __shared__ float tile_b[TILE][TILE];  // [k][column]
    int row = threadIdx.y, column = threadIdx.x;
    int i = blockIdx.y * TILE + row, j = blockIdx.x * TILE + column;
    float total = 0;
    for (int k0 = 0; k0 < K; k0 += TILE) {
        // hole 3: bring both tiles, all threads together; multiply; mind who may still be reading
        tile_a[row][column] = i < M && k0 + column < K ? a[i * K + k0 + column] : 0;
        tile_b[row][column] = k0 + row < K && j < N ? b[(k0 + row) * N + j] : 0;
        __syncthreads();
        for (int k = 0; k < TILE; k++) total += tile_a[row][k] * tile_b[k][column];
        __syncthreads();
        // end of hole
    }
    if (i < M && j < N) c[i * N + j] = total;
}
