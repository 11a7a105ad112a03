// Chapter 4, exercise 1: y = a + b, by a grid of any size.
//
// In: a and b (n,). Out: y (n,). The grid may have far fewer threads than there are elements, or
// more. The thread with number i in the whole grid takes elements i, i + S, i + 2 S, ... below n,
// where S is how many threads the grid has: a grid-stride loop. At any moment the 32 threads of a
// warp are then at 32 neighbours.

constexpr int THREADS = 128; // a block

__global__ void add(float* y, const float* a, const float* b, int n) {
    // hole 1: this thread's first element, the stride, and the loop
    int stride = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        y[i] = a[i] + b[i];
    // end of hole
}
