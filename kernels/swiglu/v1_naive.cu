// SwiGLU, step 1: one thread an element, and the formulas as they stand.
//
// A warp's 32 threads read 32 neighbours of each array: nothing that memory brings is wasted. But a
// thread asks for 4 bytes of each array (in bf16, 2) and waits: with 2 arrays to read, the 2048
// threads of a multiprocessor have 16 KB (8 KB) on their way, where some 40 KB are needed to keep
// its share of an H200's memory busy.
#include "types.cuh"

constexpr int THREADS = 256;       // a block
constexpr int PACKS = 0;           // of 16 bytes, a thread: one element instead

template <typename T>
__global__ void swiglu_forward(T* y, const T* gate, const T* up, long long n) {
    using A = accum<T>;
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    A g = to_accum(gate[i]);
    A s = 1 / (1 + exp(-g));
    y[i] = from_accum<T>(g * s * to_accum(up[i]));
}

template <typename T>
__global__ void swiglu_backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up,
                                long long n) {
    using A = accum<T>;
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    A d = to_accum(dy[i]), g = to_accum(gate[i]);
    A s = 1 / (1 + exp(-g));
    dgate[i] = from_accum<T>(d * to_accum(up[i]) * s * (1 + g * (1 - s)));
    dup[i] = from_accum<T>(d * g * s);
}
