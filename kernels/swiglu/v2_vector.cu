// SwiGLU, step 2: 16 bytes a load, several loads on their way, and a shorter logistic function.
//
// A thread has two packs of each array on their way: 64 bytes in the forward, 96 in the backward.
// With the 1024 threads that 64 registers each allow on a multiprocessor that is 64 and 96 KB.
//
// The exponential and the division are the hardware's approximations (fast_math.cuh): 2
// instructions and 1 in place of the library's 8 and 8.
//
// asserts: no spills, registers <= 64, 128-bit loads, 128-bit stores
#include "flat.cuh"
#include "fast_math.cuh"

constexpr int THREADS = 128;       // a block
constexpr int PACKS = 2;           // of 16 bytes, a thread, of each array

template <typename T>
__global__ void __launch_bounds__(THREADS, 8)
swiglu_forward(T* y, const T* gate, const T* up, long long n) {
    using A = accum<T>;
    map_elements<THREADS, PACKS, T>({y}, {gate, up}, n, [](const A* in, A* out) {
        A g = in[0], u = in[1];
        *out = g * sigmoid(g) * u;
    });
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 8)
swiglu_backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up, long long n) {
    using A = accum<T>;
    map_elements<THREADS, PACKS, T>({dgate, dup}, {dy, gate, up}, n, [](const A* in, A* out) {
        A d = in[0], g = in[1], u = in[2];
        A s = sigmoid(g);
        out[0] = d * u * s * (1 + g * (1 - s));
        out[1] = d * g * s;
    });
}
