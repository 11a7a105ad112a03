// Rotary embedding, step 2: 16 bytes a load, and each cosine and sine used for four heads.
//
// A thread takes a pack of x1 and the pack of x2 that belongs to it, 8 pairs in bf16, 4 in float,
// loads their cosines and sines once, and turns the same channels of 4 heads. In bf16 a pair is 4
// bytes to read and 4 to write, and the tables add 8 / 4 = 2 bytes from the L2 cache in place of 8.
// The packs of all 4 heads are loaded before the first is turned: 128 bytes on their way, 80 KB
// with the 640 threads that 96 registers each allow on a multiprocessor. And one division finds the
// place of 32 pairs.
//
// Where D/2, the strides or the addresses do not let packs be loaded, a thread takes its pairs one
// by one.
//
// asserts: no spills, registers <= 96, 128-bit loads, 128-bit stores
#include "pack.cuh"

constexpr int THREADS = 128;       // a block
constexpr int PAIRS = 8;           // of a head, a thread: a multiple of all Pack<T>::N
constexpr int HEADS = 4;           // a block, at most

// Turns a pack of x1 and one of x2, in COUNT heads from number `row` of the B H on. cos and sin
// point to where the pack lies in the tables, x and y to where it lies in the very first head.
template <int COUNT, typename T>
__device__ __forceinline__ void turn(T* y, const T* x, const accum<T>* cos, const accum<T>* sin,
                                     accum<T> sign, int row, int heads, unsigned pairs, int half,
                                     long long stride_b, long long stride_h) {
    using A = accum<T>;
    constexpr int N = Pack<T>::N, M = Pack<A>::N;
    Pack<A> c[N / M], s[N / M];
    #pragma unroll
    for (int j = 0; j < N / M; j++) c[j] = load_pack(cos + j * M), s[j] = load_pack(sin + j * M);
    Pack<T> x1[COUNT], x2[COUNT];
    int b = row / heads, h = row % heads;
    #pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const T* from = x + b * stride_b + h * stride_h;
        x1[i] = load_pack_once(from);
        x2[i] = load_pack_once(from + half);
        if (++h == heads) h = 0, b++;
    }
    #pragma unroll
    for (int i = 0; i < COUNT; i++) {
        Pack<T> y1, y2;
        #pragma unroll
        for (int j = 0; j < N; j++) {
            A a = to_accum(x1[i][j]), b = to_accum(x2[i][j]);
            A cj = c[j / M][j % M], sj = sign * s[j / M][j % M];
            y1[j] = from_accum<T>(a * cj - b * sj);
            y2[j] = from_accum<T>(b * cj + a * sj);
        }
        T* to = y + (row + i) * 2ll * pairs;
        store_pack_once(to, y1);  // the compiler takes a plain store_pack apart here
        store_pack_once(to + half, y2);
    }
}

// The `pairs` = T D/2 pairs of each head lie in `tiles` tiles; block b has tile b % tiles of the
// heads of group b / tiles. `rows` = B H heads in all, `heads` = H of each sequence. x is found by
// strides; y (B, H, T, D) is contiguous.
template <typename T>
__global__ void __launch_bounds__(THREADS, 5)
rotary(T* y, const T* x, const accum<T>* cos, const accum<T>* sin, bool inverse, int tiles,
       int rows, int heads, int pairs, int half, long long stride_b, long long stride_h,
       long long stride_t) {
    using A = accum<T>;
    constexpr int N = Pack<T>::N;
    int groups = gridDim.x / tiles, most = (rows - 1) / groups + 1;
    int first = blockIdx.x / tiles * most, last = min(rows - most, first) + most;
    unsigned tile = blockIdx.x % tiles * (THREADS * PAIRS);
    bool packed = half % N == 0 && stride_b % N == 0 && stride_h % N == 0 && stride_t % N == 0 &&
                  aligned16(x) && aligned16(y) && aligned16(cos) && aligned16(sin);
    int step = packed ? N : 1;
    A sign = inverse ? -1 : 1;

    for (unsigned k = 0; k < PAIRS / step; k++) {
        unsigned pair = tile + (k * THREADS + threadIdx.x) * step;
        if (pair >= pairs) return;
        unsigned t = pair / half, d = pair % half;
        const T* from = x + t * stride_t + d;
        T* to = y + 2ll * pair - d;
        if (packed && last - first == HEADS) {
            turn<HEADS>(to, from, cos + pair, sin + pair, sign, first, heads, pairs, half,
                        stride_b, stride_h);
            continue;
        }
        for (int row = first; row < last; row++) {
            if (packed) {
                turn<1>(to, from, cos + pair, sin + pair, sign, row, heads, pairs, half,
                        stride_b, stride_h);
                continue;
            }
            const T* x1 = from + row / heads * stride_b + row % heads * stride_h;
            T* y1 = to + row * 2ll * pairs;
            A a = to_accum(x1[0]), b = to_accum(x1[half]);
            A c = cos[pair], s = sign * sin[pair];
            y1[0] = from_accum<T>(a * c - b * s);
            y1[half] = from_accum<T>(b * c + a * s);
        }
    }
}
