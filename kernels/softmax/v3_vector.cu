// Softmax, step 3: 16 bytes at a time, each row read once.
//
// Before: every element was read three times, 4 or 2 bytes a load. Now packs of 16 bytes, 8 bf16,
// come by cp.async into shared memory, and stay: while they arrive, one pass takes the maximum and
// the sum; the second makes the results of what is on the chip. One read and one write, which is
// all that softmax needs. Of a row longer than 224 KB the part that has not stayed is read again.
//
// Bytes on their way hide the memory's latency: a thread asks for 6 packs before it uses the first,
// and needs no registers for them. A row of 4096 bf16, 8 KB, has one warp and no barrier; 6 blocks
// of 4 such rows fit the shared memory of a Hopper multiprocessor, and their 768 threads have 72 KB
// on their way, where about 40 KB are needed.
//
// The price is a second exponential an element. fast_exp is 2 instructions where expf is 8, and an
// element of bf16 costs about 19 in all: an H200 has time for 25, 132 multiprocessors of 128 lanes
// at 1.8 GHz, while its memory moves the element's 4 bytes at 4.8 TB/s, by the data sheet.
//
// asserts: no spills, 128-bit loads, 128-bit stores, registers <= 64
#include "softmax.cuh"

constexpr int THREADS = 128;  // a block, or those of one row
constexpr int LEAST_ROW_THREADS = 32, MOST_ROW_THREADS = 1024;
constexpr int THREAD_BYTES = 256;       // of a row, for each of its threads
constexpr int KEPT_BYTES = 224 * 1024;  // of its rows that a block keeps, at most

template <typename T>
__global__ void __launch_bounds__(MOST_ROW_THREADS, 1)
softmax_forward(T* y, const T* x, int N, int C, int slots) {
    using A = accum<T>;
    extern __shared__ uint4 places[];
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    long long start = n < N ? (long long)n * C : 0;
    const T* row[1] = {x + start};
    Stream<T, 1> stream(row, n < N ? C : 0, places, slots);
    int edge = stream.row.edge;
    y += start;

    Running<A> all;
    A at_edge[1] = {edge >= 0 ? to_accum(row[0][edge]) : -infinity<A>()};
    all.add(at_edge);
    stream.read(stream.end, [&](const Pack<T> (&packs)[1], unsigned) {
        A v[Pack<T>::N];
        widen(v, packs[0]);
        all.add(v);
    });
    all.over_row();

    A scale = 1 / all.total;
    if (edge >= 0) y[edge] = from_accum<T>(fast_exp(at_edge[0] - all.largest) * scale);
    y += stream.row.head;
    bool aligned = reinterpret_cast<size_t>(y) % 16 == 0;
    stream.read_again([&](const Pack<T> (&packs)[1], unsigned c) {
        A v[Pack<T>::N];
        widen(v, packs[0]);
        #pragma unroll
        for (int j = 0; j < Pack<T>::N; j++) v[j] = fast_exp(v[j] - all.largest) * scale;
        store_pack_any(y + c, narrow<T>(v), aligned);
    });
}

template <typename T>
__global__ void __launch_bounds__(MOST_ROW_THREADS, 1)
softmax_backward(T* dx, const T* dy, const T* y, int N, int C, int slots) {
    using A = accum<T>;
    extern __shared__ uint4 places[];
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    long long start = n < N ? (long long)n * C : 0;
    if (!aligned_alike(y, dy)) {  // one of them is a view: as in step 2
        A dot = 0;
        #pragma unroll 1
        for (int c = threadIdx.x; c < C; c += blockDim.x)
            dot += to_accum(dy[start + c]) * to_accum(y[start + c]);
        dot = row_sum(dot);
        #pragma unroll 1
        for (int c = threadIdx.x; c < C && n < N; c += blockDim.x)
            dx[start + c] = from_accum<T>(to_accum(y[start + c]) * (to_accum(dy[start + c]) - dot));
        return;
    }
    const T* rows[2] = {y + start, dy + start};
    Stream<T, 2> stream(rows, n < N ? C : 0, places, slots);
    int edge = stream.row.edge;
    dx += start;

    A edge_y = edge >= 0 ? to_accum(rows[0][edge]) : A(0);
    A edge_dy = edge >= 0 ? to_accum(rows[1][edge]) : A(0);
    A dot = edge_y * edge_dy;
    stream.read(stream.end, [&](const Pack<T> (&packs)[2], unsigned) {
        A v[Pack<T>::N], dv[Pack<T>::N];
        widen(v, packs[0]);
        widen(dv, packs[1]);
        #pragma unroll
        for (int j = 0; j < Pack<T>::N; j++) dot += v[j] * dv[j];
    });
    dot = row_sum(dot);

    if (edge >= 0) dx[edge] = from_accum<T>(edge_y * (edge_dy - dot));
    dx += stream.row.head;
    bool aligned = reinterpret_cast<size_t>(dx) % 16 == 0;
    stream.read_again([&](const Pack<T> (&packs)[2], unsigned c) {
        A v[Pack<T>::N], dv[Pack<T>::N];
        widen(v, packs[0]);
        widen(dv, packs[1]);
        #pragma unroll
        for (int j = 0; j < Pack<T>::N; j++) v[j] *= dv[j] - dot;
        store_pack_any(dx + c, narrow<T>(v), aligned);
    });
}
