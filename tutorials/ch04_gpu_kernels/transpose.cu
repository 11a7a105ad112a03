// Chapter 4, exercise 2: y = x transposed, through a tile in shared memory.
//
// In: x (N, C). Out: y (C, N). Block (bx, by) of the grid moves the tile of x whose first row is
// 32 by and whose first column is 32 bx. It has (32, 8) threads: each takes 4 elements of a column
// of the tile, 8 rows apart. Warps read rows of x and write rows of y; what turns is the tile.
//
// Judged: the values, for any N and C; races; sectors of global memory, as few as a copy moves;
// bank conflicts in shared memory, none.

constexpr int TILE = 32; // rows and columns
constexpr int ROWS = 8;  // of threads: blockDim.y

__global__ void transpose(float* y, const float* x, int N, int C) {
    // hole 2: the tile and its padding; load rows of x, wait, store rows of y
    __shared__ float tile[TILE][TILE + 1];
    int first_n = blockIdx.y * TILE, first_c = blockIdx.x * TILE, lane = threadIdx.x;
    for (int r = threadIdx.y; r < TILE; r += ROWS)
        if (first_n + r < N && first_c + lane < C)
            tile[r][lane] = x[(first_n + r) * C + first_c + lane];
    __syncthreads();
    for (int r = threadIdx.y; r < TILE; r += ROWS)
        if (first_c + r < C && first_n + lane < N)
            y[(first_c + r) * N + first_n + lane] = tile[lane][r];
    // end of hole
}
