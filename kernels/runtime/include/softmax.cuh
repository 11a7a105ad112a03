// What softmax and cross-entropy share: a row spread over threads, its sums, the running maximum
// and sum of exponentials, and how a row comes to the chip once and stays there.
//
// blockDim.x threads share a row, 32, 64, ... 1024 of them; a block has blockDim.y rows.
//
//     | edge | pack | pack | ...  | pack | edge |
//
// Packs of 16 bytes lie at addresses that are multiples of 16. Rows of an odd length, or of a view
// that begins anywhere, have up to N - 1 elements before the first pack and after the last: those
// edges are read one by one, each by a thread of its own. Rows of the usual sizes have none.
#pragma once

#include "fast_math.cuh"
#include "pack.cuh"
#include "ptx.cuh"
#include "reduce.cuh"
#include "types.cuh"

template <typename T>
struct Row {
    int head;  // elements before the first pack
    int packs;
    int edge;  // this thread's element of the edges, or -1

    __device__ __forceinline__ Row(const T* row, int C) {
        int past = reinterpret_cast<size_t>(row) % 16;
        head = min((16 - past) % 16 / (int)sizeof(T), C);
        packs = (C - head) / Pack<T>::N;
        int t = threadIdx.x, tail = head + packs * Pack<T>::N;
        edge = t < head ? t : tail + t - head;
        if (edge >= C) edge = -1;
    }

    // The first element of pack p.
    __device__ __forceinline__ int at(int p) const { return head + p * Pack<T>::N; }
};

// The sum of x over a row's threads, given to all of them: by shuffles in each warp, then by
// shuffles of the warps' sums. All threads of the block call it; what the row's threads did before
// is done when it returns.
template <typename A>
__device__ __forceinline__ A row_sum(A x) {
    __shared__ A partial[32];
    x = warp_sum(x);
    if (blockDim.x == 32) {
        __syncwarp();
        return x;
    }
    int warps = blockDim.x / 32, lane = threadIdx.x % 32, first = threadIdx.y * warps;
    __syncthreads();  // an earlier call's results have been read
    if (lane == 0) partial[first + threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(lane < warps ? partial[first + lane] : A(0));
}

template <typename A>
__device__ __forceinline__ A row_max(A x) {
    __shared__ A partial[32];
    x = warp_max(x);
    if (blockDim.x == 32) {
        __syncwarp();
        return x;
    }
    int warps = blockDim.x / 32, lane = threadIdx.x % 32, first = threadIdx.y * warps;
    __syncthreads();
    if (lane == 0) partial[first + threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(partial[first + lane % warps]);
}

template <typename A>
__device__ __forceinline__ A infinity() {
    return __int_as_float(0x7f800000);
}

// The maximum of what has gone by, and total = sum e^(x - largest), in one pass: where the maximum
// grows, the total so far shrinks by e^(old - new) (Milakov & Gimelshein 2018, arXiv 1805.02867).
template <typename A>
struct Running {
    A largest = -infinity<A>();
    A total = 0;

    // What to subtract. Not a maximum of -inf, of which no e^(-inf - -inf) may come: it is NaN.
    static __device__ __forceinline__ A shift(A largest) {
        return largest == -infinity<A>() ? A(0) : largest;
    }

    template <int K>
    __device__ __forceinline__ void add(const A (&x)[K]) {
        A before = largest;
        #pragma unroll
        for (int k = 0; k < K; k++) largest = max(largest, x[k]);
        A less = shift(largest), sum = 0;
        #pragma unroll
        for (int k = 0; k < K; k++) sum += fast_exp(x[k] - less);
        total = total * fast_exp(before - less) + sum;
    }

    // From what each thread of a row has seen to what all have. Called by all threads of the block.
    __device__ __forceinline__ void over_row() {
        A all = row_max(largest);
        total = row_sum(total * fast_exp(largest - shift(all)));
        largest = all;
    }
};

// Whether packs of one are packs of the other.
__device__ __forceinline__ bool aligned_alike(const void* a, const void* b) {
    return (reinterpret_cast<size_t>(a) - reinterpret_cast<size_t>(b)) % 16 == 0;
}

// The packs of K rows that are aligned alike, an x and its dy: read by cp.async, a few packs ahead
// of their use, into shared memory, where as many of them stay as fit.
//
// A thread's packs are its rounds: round i is pack threadIdx.x + i blockDim.x. It has places of its
// own, `slots`, round i in place i % slots, and no thread looks at another's: there is no barrier.
// Positions are counted in elements from the row's first pack, places likewise.
template <typename T, int K>
struct Stream {
    static constexpr int N = Pack<T>::N;
    static constexpr int AHEAD = 6 / K;  // rounds on their way; slots of a row that does not fit

    Row<T> row;
    const T* x[K];
    T* keep;
    int step, size;        // of a round; of all slots
    unsigned first, left, end;  // this thread's packs; those before `left` do not stay

    // `shared`: K * slots * blockDim.x packs for each row of the block.
    __device__ __forceinline__ Stream(const T* const (&rows)[K], int C, void* shared, int slots)
        : row(rows[0], C), step(blockDim.x * N), size(slots * step) {
        #pragma unroll
        for (int k = 0; k < K; k++) x[k] = rows[k] + row.head;
        first = threadIdx.x * N;
        keep = static_cast<T*>(shared) + threadIdx.y * K * size + first;
        int rounds = (row.packs - (int)threadIdx.x + (int)blockDim.x - 1) / (int)blockDim.x;
        end = first + (unsigned)rounds * step;
        left = first + (unsigned)max(rounds - slots, 0) * step;
    }

    __device__ __forceinline__ void fetch(unsigned c, int place) const {
        #pragma unroll
        for (int k = 0; k < K; k++) ptx::copy_async_16(keep + k * size + place, x[k] + c);
    }

    template <typename F>
    __device__ __forceinline__ void give(unsigned c, int place, F f) const {
        Pack<T> packs[K];
        #pragma unroll
        for (int k = 0; k < K; k++) packs[k] = load_pack(keep + k * size + place);
        f(packs, c);
    }

    __device__ __forceinline__ void advance(int& place) const {
        place += step;
        if (place >= size) place = 0;
    }

    // Calls f(packs, c), c the position of their first elements, for this thread's packs before
    // `last`, from global memory.
    template <typename F>
    __device__ __forceinline__ void read(unsigned last, F f) const {
        unsigned coming = first;
        int in = 0, out = 0;
        #pragma unroll
        for (int i = 0; i < AHEAD; i++, coming += step) {
            if (coming < last) fetch(coming, i * step);
            ptx::copy_async_commit();
        }
        in = AHEAD * step < size ? AHEAD * step : 0;
        #pragma unroll 1
        for (unsigned c = first; c < last; c += step, coming += step) {
            ptx::copy_async_wait<AHEAD - 1>();
            give(c, out, f);
            if (coming < last) fetch(coming, in);
            ptx::copy_async_commit();
            advance(in);
            advance(out);
        }
    }

    // The same for all packs, after they were read: those that stayed, which still stay, and the
    // others from global memory, one by one.
    template <typename F>
    __device__ __forceinline__ void look(F f) const {
        for (unsigned c = first; c < left; c += step) {
            Pack<T> packs[K];
            #pragma unroll
            for (int k = 0; k < K; k++) packs[k] = load_pack(x[k] + c);
            f(packs, c);
        }
        look_at_kept(f);
    }

    // The same for all packs, for the last time: those that stayed, then the others once more.
    template <typename F>
    __device__ __forceinline__ void read_again(F f) const {
        look_at_kept(f);
        if (left > first) read(left, f);
    }

    template <typename F>
    __device__ __forceinline__ void look_at_kept(F f) const {
        int place = left > first ? (left - first) % size : 0;
        #pragma unroll 1
        for (unsigned c = left; c < end; c += step) {
            give(c, place, f);
            advance(place);
        }
    }
};

// To an output that no one reads soon.
template <typename T>
__device__ __forceinline__ void store_pack_any(T* to, const Pack<T>& pack, bool aligned) {
    if (aligned) {
        store_pack_once(to, pack);
    } else {
        #pragma unroll
        for (int j = 0; j < Pack<T>::N; j++) to[j] = pack[j];
    }
}
