// AdamW, step 1: one thread an element.
//
// A thread reads param, grad, m and v, 4 bytes each in float, and writes three of them back: 28
// bytes for a few dozen instructions. The memory decides, and neighbours read neighbours, so every
// byte that is moved is used. What is left to gain: a warp's load asks for 128 bytes at a time,
// four requests where a wider load makes one, and a thread has only 16 bytes on their way while it
// waits.
#include "types.cuh"

constexpr int THREADS = 256;       // a block
constexpr int ITEMS = 1;           // elements a thread

// keep and add are beta and 1 - beta. rate and eps contain the corrections of the bias of m and v:
// see cuda.py.
template <typename T>
__global__ void adamw(T* param, const T* grad, T* m, T* v, accum<T> grad_scale, accum<T> keep1,
                      accum<T> add1, accum<T> keep2, accum<T> add2, accum<T> decay, accum<T> rate,
                      accum<T> eps, long long n) {
    using A = accum<T>;
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    A g = to_accum(grad[i]) * grad_scale;
    A new_m = keep1 * to_accum(m[i]) + add1 * g;
    A new_v = keep2 * to_accum(v[i]) + add2 * g * g;
    param[i] = from_accum<T>(decay * to_accum(param[i]) - rate * new_m / (sqrt(new_v) + eps));
    m[i] = from_accum<T>(new_m);
    v[i] = from_accum<T>(new_v);
}
