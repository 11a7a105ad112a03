// Cross-entropy, step 3: loss and gradient with one read and one write of the logits.
//
// Before: the maximum, the sum and the gradient each read the row. Now the row stays in the block's
// shared memory after its first read: 50304 classes are 101 KB in bf16, 201 KB in float, and a
// Hopper block has up to 227 KB. Maximum and sum are taken in the same pass, while the row arrives.
// So V elements are moved twice instead of four times. Of a row that does not fit, 128256 classes,
// the part that has not stayed is read again.
//
// The row arrives by cp.async, 16 bytes a copy: a thread asks for 6 packs, which go to shared
// memory without passing through registers, and works on the oldest. With 1024 threads resident
// 96 KB are on their way, where about 40 KB hide the latency. A row of up to 113 KB leaves room for
// a second block, which loads while the first computes.
//
// Odd sizes cost little: GPT-2's 50257 classes put most rows at odd addresses, and still all but
// the few elements at a row's ends move 16 bytes at a time.
//
// dlogits may be logits: a thread overwrites only what it alone has read.
//
// asserts: no spills, 128-bit loads, registers <= 64
// asserts cross_entropy_forward_backward: 128-bit stores
#include "softmax.cuh"

constexpr int THREADS = 128;  // a block, or those of one row
constexpr int LEAST_ROW_THREADS = 32, MOST_ROW_THREADS = 1024;
constexpr int THREAD_BYTES = 256;       // of a row, for each of its threads
constexpr int KEPT_BYTES = 224 * 1024;  // of its rows that a block keeps, at most

// Reads a row; all its threads then have its sums, and the first its loss. Called by all threads of
// the block, with a row of no elements where none counts.
template <typename T>
__device__ __forceinline__ accum<T> read_row(Running<accum<T>>& all, const Stream<T, 1>& stream,
                                             accum<T> at_edge, const T* x, int V,
                                             long long target, accum<T> smoothing) {
    using A = accum<T>;
    A edge[1] = {at_edge};
    all.add(edge);
    stream.read(stream.end, [&](const Pack<T> (&packs)[1], unsigned) {
        A v[Pack<T>::N];
        widen(v, packs[0]);
        all.add(v);
    });
    A at_target = target >= 0 && threadIdx.x == 0 ? to_accum(x[target]) : A(0);
    all.over_row();
    A distance = all.largest - at_target;
    if (smoothing != 0) {  // else 0 times an infinite distance would be NaN
        A below = stream.row.edge >= 0 ? all.largest - at_edge : A(0);
        stream.look([&](const Pack<T> (&packs)[1], unsigned) {
            #pragma unroll
            for (int j = 0; j < Pack<T>::N; j++) below += all.largest - to_accum(packs[0][j]);
        });
        distance = (1 - smoothing) * distance + smoothing * (row_sum(below) / V);
    }
    return log(all.total) + distance;
}

template <typename T>
__global__ void __launch_bounds__(MOST_ROW_THREADS, 1)
cross_entropy_forward(accum<T>* losses, const T* logits, const long long* targets,
                      long long ignore_index, accum<T> label_smoothing, int N, int V, int slots) {
    using A = accum<T>;
    extern __shared__ uint4 places[];
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    bool counts = n < N && targets[n] != ignore_index;
    const T* x[1] = {logits + (counts ? (long long)n * V : 0)};
    Stream<T, 1> stream(x, counts ? V : 0, places, slots);
    A at_edge = stream.row.edge >= 0 ? to_accum(x[0][stream.row.edge]) : -infinity<A>();

    Running<A> all;
    A loss = read_row(all, stream, at_edge, x[0], V, counts ? targets[n] : -1, label_smoothing);
    if (n < N && threadIdx.x == 0) losses[n] = counts ? loss : A(0);
}

template <typename T>
__global__ void __launch_bounds__(MOST_ROW_THREADS, 1)
cross_entropy_forward_backward(accum<T>* losses, T* dlogits, const T* logits,
                               const long long* targets, long long ignore_index,
                               accum<T> label_smoothing, int N, int V, int slots) {
    using A = accum<T>;
    extern __shared__ uint4 places[];
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    bool inside = n < N, counts = inside && targets[n] != ignore_index;
    long long start = inside ? (long long)n * V : 0, target = counts ? targets[n] : -1;
    const T* x[1] = {logits + start};
    Stream<T, 1> stream(x, counts ? V : 0, places, slots);
    int edge = stream.row.edge;
    A at_edge = edge >= 0 ? to_accum(x[0][edge]) : -infinity<A>();

    Running<A> all;
    A loss = read_row(all, stream, at_edge, x[0], V, target, label_smoothing);
    if (inside && threadIdx.x == 0) losses[n] = counts ? loss : A(0);
    T* dx = dlogits + start;
    if (!counts) {
        if (inside)
            for (int c = threadIdx.x; c < V; c += blockDim.x) dx[c] = from_accum<T>(0);
        return;
    }

    A scale = 1 / all.total, floor = label_smoothing / V, wanted = 1 - label_smoothing;
    if (edge >= 0) {
        A p = fast_exp(at_edge - all.largest) * scale - floor;
        dx[edge] = from_accum<T>(edge == target ? p - wanted : p);
    }
    dx += stream.row.head;
    unsigned target_at = (int)target - stream.row.head;
    bool aligned = reinterpret_cast<size_t>(dx) % 16 == 0;
    stream.read_again([&](const Pack<T> (&packs)[1], unsigned c) {
        A p[Pack<T>::N];
        widen(p, packs[0]);
        #pragma unroll
        for (int j = 0; j < Pack<T>::N; j++) p[j] = fast_exp(p[j] - all.largest) * scale - floor;
        if (target_at - c < Pack<T>::N)  // one pack of the row
            #pragma unroll
            for (int j = 0; j < Pack<T>::N; j++) p[j] -= c + j == target_at ? wanted : A(0);
        store_pack_any(dx + c, narrow<T>(p), aligned);
    });
}
