// Embedding, step 2: 16 bytes a copy forward, sorted ids backward.
//
// Forward is a copy whatever the type, so it goes in units of 16 bytes: in float a thread has four
// ids, then four units on their way at once. One division by C a unit instead of one an element,
// and in 32 bits, a fraction of the instructions of one in 64.
//
// Backward, the host sorts the ids (cuda.py), equal ones in the order of n. A warp takes a chunk of
// 64 sorted gradients, 16 bytes a lane, and adds along: where the id changes, for all lanes at
// once, a row of dweight is done. Each gradient is read once, by threads that look at 64 ids, not
// at N. Only the first and the last id of a chunk may have gradients in other chunks: their sums go
// to `partial`, two rows for 64, in the order of their ids again, and the next level does the same
// with those, until one chunk is all there is. So an id that occurs 16384 times is added by 256
// warps, then 8, then 1, never by one alone; and no two write the same row: no atomics, the same
// bits at every run.
//
// Bytes, for N = 16384, C = 4096 in bf16: dy is 134 MB, read once; the first partial sums, in
// float, 8 MB, written and read; dweight is zeroed before, and of it at most another 134 MB
// written.
//
// asserts: no spills, 128-bit loads, 128-bit stores
// asserts embedding_forward: registers <= 64
// asserts embedding_backward: registers <= 128
// asserts embedding_backward_level: registers <= 128
#include "pack.cuh"

constexpr int WARPS = 4;           // a block
constexpr int THREADS = 32 * WARPS;
constexpr int ITEMS = 16;          // elements of y a thread: a multiple of all Pack<T>::N
constexpr int SORTS = 1;           // the backward kernel takes sorted ids
constexpr int ROWS = 64;           // gradients a chunk
constexpr int AHEAD = 8;           // of them, loaded before the first is added
constexpr int COLUMNS = 4;         // of a chunk a thread, for which there are blocks
constexpr int MOST_BLOCKS_Y = 65535;

// y[i] = weight[ids[i / C] C + i mod C] for i < size, all in units of V; UNITS of them a thread.
template <int UNITS, typename V>
__device__ __forceinline__ void copy_rows(V* y, const V* weight, const long long* ids,
                                          long long size, unsigned C) {
    long long start = (long long)blockIdx.x * (THREADS * UNITS);
    if (start >= size) return;
    long long first_row = start / C;
    unsigned first = start % C, left = min(size - start, (long long)(THREADS * UNITS));
    // Three loops, so that all ids are on their way at once, then all units. Past the end the last
    // one is loaded again, since a branch around each load would make the next one wait for it.
    long long id[UNITS];
    unsigned column[UNITS];
    V units[UNITS];
    #pragma unroll
    for (int j = 0; j < UNITS; j++) {
        unsigned at = first + min(j * THREADS + threadIdx.x, left - 1), row = at / C;
        id[j] = ids[first_row + row];
        column[j] = at - row * C;
    }
    #pragma unroll
    for (int j = 0; j < UNITS; j++) units[j] = weight[id[j] * C + column[j]];
    #pragma unroll
    for (int j = 0; j < UNITS; j++) {
        unsigned k = j * THREADS + threadIdx.x;
        if (k < left) y[start + k] = units[j];
    }
}

// size = N C, of y.
template <typename T>
__global__ void __launch_bounds__(THREADS)
embedding_forward(T* y, const T* weight, const long long* ids, long long size, int C) {
    constexpr int N = Pack<T>::N;
    if (C % N == 0 && aligned16(weight) && aligned16(y))
        copy_rows<ITEMS / N>(reinterpret_cast<uint4*>(y), reinterpret_cast<const uint4*>(weight),
                             ids, size / N, C / N);
    else
        copy_rows<ITEMS>(y, weight, ids, size, C);
}

// W neighbouring elements of a row: some packs, or a single element.
template <int W, typename S>
struct Columns {
    S v[W];

    __device__ __forceinline__ void load(const S* from) {
        if constexpr (W == 1) {
            v[0] = *from;
        } else {
            #pragma unroll
            for (int i = 0; i < W; i += Pack<S>::N) {
                Pack<S> pack = load_pack_once(from + i);
                #pragma unroll
                for (int k = 0; k < Pack<S>::N; k++) v[i + k] = pack[k];
            }
        }
    }
    template <typename A>
    static __device__ __forceinline__ void store(S* to, const A (&from)[W]) {
        if constexpr (W == 1) {
            *to = from_accum<S>(from[0]);
        } else {
            #pragma unroll
            for (int i = 0; i < W; i += Pack<S>::N) {
                Pack<S> pack;
                #pragma unroll
                for (int k = 0; k < Pack<S>::N; k++) pack[k] = from_accum<S>(from[i + k]);
                store_pack(to + i, pack);
            }
        }
    }
};

// W columns of one chunk. Row n of N is source[order[n]], or source[n] where there is no order.
template <int W, typename T, typename S>
__device__ __forceinline__ void add_chunk(T* dweight, accum<T>* partial, long long* partial_ids,
                                          const S* source, const long long* order,
                                          const long long* ids, int N, int C, int chunks,
                                          int chunk, int column) {
    using A = accum<T>;
    int start = chunk * ROWS, rows = min(ROWS, N - start);
    long long run = ids[start];  // whose gradients are being added
    bool at_start = true;        // it is the chunk's first
    A sum[W] = {};

    auto to_partial = [&](int which) {
        long long row = 2ll * chunk + which;
        Columns<W, A>::store(partial + row * C + column, sum);
        if (column == 0) partial_ids[row] = run;
    };
    auto to_dweight = [&]() { Columns<W, T>::store(dweight + run * C + column, sum); };
    auto clear = [&]() {
        #pragma unroll
        for (int k = 0; k < W; k++) sum[k] = 0;
    };
    for (int base = 0; base < rows; base += AHEAD) {
        Columns<W, S> ahead[AHEAD];
        long long id[AHEAD], from[AHEAD];
        #pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            int n = start + min(base + j, rows - 1);  // as above: the last again, and no branch
            id[j] = ids[n];
            from[j] = order ? order[n] : n;
        }
        #pragma unroll
        for (int j = 0; j < AHEAD; j++) ahead[j].load(source + from[j] * C + column);
        #pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (base + j < rows) {
                if (id[j] != run) {
                    if (at_start && chunks > 1) to_partial(0);
                    else to_dweight();
                    run = id[j];
                    at_start = false;
                    clear();
                }
                #pragma unroll
                for (int k = 0; k < W; k++) sum[k] += to_accum(ahead[j].v[k]);
            }
    }
    if (chunks == 1) {
        to_dweight();
    } else if (at_start) {  // one id in all of the chunk
        to_partial(0);
        clear();
        to_partial(1);
    } else {
        to_partial(1);
    }
}

// A warp a chunk, as wide as 32 lanes are; what the grid does not cover, in turns.
template <int W, typename T, typename S>
__device__ __forceinline__ void add_runs(T* dweight, accum<T>* partial, long long* partial_ids,
                                         const S* source, const long long* order,
                                         const long long* ids, int N, int C, int chunks) {
    int lane = threadIdx.x % 32, warp = blockIdx.y * WARPS + threadIdx.x / 32;
    for (int chunk = warp; chunk < chunks; chunk += gridDim.y * WARPS)
        for (int column = (blockIdx.x * 32 + lane) * W; column < C; column += gridDim.x * 32 * W)
            add_chunk<W>(dweight, partial, partial_ids, source, order, ids, N, C, chunks, chunk,
                         column);
}

// dweight must be zero; ids (N,) sorted; partial (2 chunks, C) with partial_ids goes to the next
// level, unless there is but one chunk.
template <typename T>
__global__ void __launch_bounds__(THREADS, 4)
embedding_backward(T* dweight, accum<T>* partial, long long* partial_ids, const T* dy,
                   const long long* order, const long long* ids, int N, int C, int chunks) {
    constexpr int W = Pack<T>::N;
    if (C % W == 0 && aligned16(dy) && aligned16(dweight))
        add_runs<W>(dweight, partial, partial_ids, dy, order, ids, N, C, chunks);
    else
        add_runs<1>(dweight, partial, partial_ids, dy, order, ids, N, C, chunks);
}

// The same for the partial sums (N, C) of the level before.
template <typename T>
__global__ void __launch_bounds__(THREADS, 4)
embedding_backward_level(T* dweight, accum<T>* partial, long long* partial_ids,
                         const accum<T>* sums, const long long* ids, int N, int C, int chunks) {
    constexpr int W = Pack<T>::N;
    const long long* no_order = nullptr;
    if (C % W == 0 && aligned16(dweight))
        add_runs<W>(dweight, partial, partial_ids, sums, no_order, ids, N, C, chunks);
    else
        add_runs<1>(dweight, partial, partial_ids, sums, no_order, ids, N, C, chunks);
}
