// c = a b, a thread for each element of c: your file for exercise 6.2 of chapter 06.
//
// a is (M, K), b (K, N), c (M, N), all row-major: a[i, k] is a[i * K + k]. Block (x, y) computes the
// SIDE x SIDE elements of c from row y * SIDE and column x * SIDE on; it has SIDE x SIDE threads, and
// the 32 threads of a warp are those with the same threadIdx.y. Sizes need not be multiples of SIDE:
// some threads have no element, and must touch nothing.
//
// Judged: the values; accesses out of bounds; sectors, 5 loaded by a warp for each k.
constexpr int SIDE = 32;

__global__ void __launch_bounds__(SIDE * SIDE)
    naive(float* c, const float* a, const float* b, int M, int N, int K) {
    // hole 2: which element this thread has, whether there is one, its sum over k
    int i = blockIdx.y * SIDE + threadIdx.y;
    int j = blockIdx.x * SIDE + threadIdx.x;
    if (i >= M || j >= N) return;
    float total = 0;
    for (int k = 0; k < K; k++) total += a[i * K + k] * b[k * N + j];
    c[i * N + j] = total;
    // end of hole
}
