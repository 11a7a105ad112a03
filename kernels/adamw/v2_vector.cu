// AdamW, step 2: 16 bytes a load, all of a thread's loads before its first sum.
//
// Step 1 has 16 bytes a thread on their way (4 arrays, 4 bytes each); with 2048 threads on a
// multiprocessor that is 32 KB, less than the 40 KB or so that keep its share of the memory busy.
// Here a thread takes 8 elements, in float two packs of each array: 8 loads of 16 bytes, 128 bytes
// on their way, 64 KB with as few as 512 threads. And a load instruction now fetches 512 bytes for
// a warp instead of 128: a quarter of the instructions and of the requests.
//
// grad, m and v are marked as used once: they are not read again before the next step, while the
// parameters are, by the next forward pass, and should have the caches.
//
// asserts: no spills, 128-bit loads, 128-bit stores
// asserts adamw<float>: registers <= 64
// asserts adamw<bf16>: registers <= 64
#include "pack.cuh"

constexpr int THREADS = 256;       // a block
constexpr int ITEMS = 8;           // elements a thread: a multiple of all Pack<T>::N

template <typename A>
struct Update {
    A grad_scale, keep1, add1, keep2, add2, decay, rate, eps;

    template <typename T>
    __device__ __forceinline__ void operator()(T& param, T grad, T& m, T& v) const {
        A g = to_accum(grad) * grad_scale;
        A new_m = keep1 * to_accum(m) + add1 * g;
        A new_v = keep2 * to_accum(v) + add2 * g * g;
        param = from_accum<T>(decay * to_accum(param) - rate * new_m / (sqrt(new_v) + eps));
        m = from_accum<T>(new_m);
        v = from_accum<T>(new_v);
    }
};

template <typename T>
__global__ void __launch_bounds__(THREADS)
adamw(T* param, const T* grad, T* m, T* v, accum<T> grad_scale, accum<T> keep1, accum<T> add1,
      accum<T> keep2, accum<T> add2, accum<T> decay, accum<T> rate, accum<T> eps, long long n) {
    constexpr int N = Pack<T>::N, PACKS = ITEMS / N, TILE = THREADS * ITEMS;
    Update<accum<T>> update{grad_scale, keep1, add1, keep2, add2, decay, rate, eps};
    long long start = (long long)blockIdx.x * TILE;
    bool aligned = aligned16(param) && aligned16(grad) && aligned16(m) && aligned16(v);

    if (!aligned || start + TILE > n) {  // a view that starts anywhere, or the last elements
        for (int k = threadIdx.x; k < TILE && start + k < n; k += THREADS)
            update(param[start + k], grad[start + k], m[start + k], v[start + k]);
        return;
    }
    Pack<T> p[PACKS], g[PACKS], ms[PACKS], vs[PACKS];
    #pragma unroll
    for (int j = 0; j < PACKS; j++) {
        long long i = start + (j * THREADS + threadIdx.x) * N;
        p[j] = load_pack(param + i);
        g[j] = load_pack_once(grad + i);
        ms[j] = load_pack_once(m + i);
        vs[j] = load_pack_once(v + i);
    }
    #pragma unroll
    for (int j = 0; j < PACKS; j++) {
        long long i = start + (j * THREADS + threadIdx.x) * N;
        #pragma unroll
        for (int k = 0; k < N; k++) update(p[j][k], g[j][k], ms[j][k], vs[j][k]);
        store_pack(param + i, p[j]);
        store_pack_once(m + i, ms[j]);
        store_pack_once(v + i, vs[j]);
    }
}
