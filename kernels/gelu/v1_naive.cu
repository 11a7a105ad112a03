// GELU, step 1: one thread an element, and the formulas as they stand.
//
// A warp's 32 threads read 32 neighbours: in float 128 bytes, in bf16 64. That wastes nothing of
// what memory brings, but each thread asks for 4 or 2 bytes and waits: a multiprocessor's 2048
// threads have 8 or 4 KB on their way, where some 40 KB are needed to keep its share of an H200's
// memory busy. And 1 + erf, or 1 + tanh, cancels where x is far below 0: at x = -5, where the exact
// y is 2.9e-7 x, it keeps one digit of float, at -6 none.
#include "types.cuh"

constexpr int THREADS = 256;       // a block
constexpr int FORWARD_PACKS = 0;   // of 16 bytes, a thread: one element instead
constexpr int BACKWARD_PACKS = 0;

constexpr double SQRT_HALF = 0.70710678118654752440;
constexpr double DENSITY = 0.39894228040143267794;  // 1 / sqrt(2 pi)
constexpr double SLOPE = 0.79788456080286535588;    // sqrt(2 / pi)
constexpr double CUBE = 0.044715;

template <typename T>
__global__ void gelu_forward(T* y, const T* x, bool tanh_form, long long n) {
    using A = accum<T>;
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    A v = to_accum(x[i]), z;
    if (tanh_form)
        z = tanh(A(SLOPE) * (v + A(CUBE) * v * v * v));
    else
        z = erf(v * A(SQRT_HALF));
    y[i] = from_accum<T>(A(0.5) * v * (1 + z));
}

template <typename T>
__global__ void gelu_backward(T* dx, const T* dy, const T* x, bool tanh_form, long long n) {
    using A = accum<T>;
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    A v = to_accum(x[i]), slope;
    if (tanh_form) {
        A t = tanh(A(SLOPE) * (v + A(CUBE) * v * v * v));
        A du = A(SLOPE) * (1 + 3 * A(CUBE) * v * v);
        slope = A(0.5) * (1 + t) + A(0.5) * v * (1 - t * t) * du;
    } else {
        A density = A(DENSITY) * exp(A(-0.5) * v * v);
        slope = A(0.5) * (1 + erf(v * A(SQRT_HALF))) + v * density;
    }
    dx[i] = from_accum<T>(to_accum(dy[i]) * slope);
}
