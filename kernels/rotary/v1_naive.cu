// Rotary embedding, step 1: one thread a pair (x1, x2) of one head.
//
// Neighbouring threads have neighbouring channels, so memory brings little that is not wanted. But
// a thread reads two numbers of x and, for those alone, a cosine and a sine: in bf16 4 bytes of x
// and 8 of tables, which come from the L2 cache and are more than its share. It has 4 to 8 bytes of
// x on their way, 8 to 16 KB on a multiprocessor where some 40 KB are needed; and most of its 150
// instructions are three divisions, to find its place.
#include "types.cuh"

constexpr int THREADS = 256;       // a block
constexpr int PAIRS = 1;           // of a head, a thread
constexpr int HEADS = 1;           // a block, at most

// The `pairs` = T D/2 pairs of each head lie in `tiles` tiles; block b has tile b % tiles of the
// heads of group b / tiles. `rows` = B H heads in all, `heads` = H of each sequence. x is found by
// strides; y (B, H, T, D) is contiguous.
template <typename T>
__global__ void rotary(T* y, const T* x, const accum<T>* cos, const accum<T>* sin, bool inverse,
                       int tiles, int rows, int heads, int pairs, int half, long long stride_b,
                       long long stride_h, long long stride_t) {
    using A = accum<T>;
    int row = blockIdx.x / tiles;
    long long pair = (long long)(blockIdx.x % tiles) * THREADS + threadIdx.x;
    if (pair >= pairs) return;
    int t = (int)pair / half, d = (int)pair % half;
    const T* from = x + row / heads * stride_b + row % heads * stride_h + t * stride_t + d;
    T* to = y + ((long long)row * pairs + (long long)t * half) * 2 + d;

    A c = cos[pair], s = inverse ? -sin[pair] : sin[pair];
    A x1 = to_accum(from[0]), x2 = to_accum(from[half]);
    to[0] = from_accum<T>(x1 * c - x2 * s);
    to[half] = from_accum<T>(x2 * c + x1 * s);
}
