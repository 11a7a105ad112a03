// GELU, step 2: 16 bytes a load, several loads on their way, and fewer instructions.
//
// In bf16 loads are not all. By an H200's data sheet (4.8 TB/s, 132 multiprocessors, 1.98 GHz) a
// multiprocessor gets 18 bytes a cycle, an element (4 bytes, in and out) every 0.22 cycles, in
// which it issues 27 instructions of a thread. Step 1 takes about twice as many. So, besides the
// packs of flat.cuh, this step changes the formulas, to some 21 (erf) and 11 (tanh):
//
//   tanh   y = x s(2 u), the logistic function: an exponential and a reciprocal.
//   erf    the normal distribution's tail beyond |x|, q = e^(-x^2 / 2) t p(t), t = 1 / (1 + c |x|)
//          (the substitution: Hastings 1955): an exponential, a reciprocal, 9 coefficients. Phi is
//          q or 1 - q, and the backward's density is the same exponential.
//
// Neither cancels: y keeps its digits far below 0.
//
// asserts: registers <= 64, 128-bit loads, 128-bit stores
// asserts gelu_forward: no spills
// asserts gelu_backward<float>: no spills
// asserts gelu_backward<bf16>: no spills
#include "flat.cuh"
#include "fast_math.cuh"

constexpr int THREADS = 128;       // a block
constexpr int FORWARD_PACKS = 4;   // of 16 bytes, a thread
constexpr int BACKWARD_PACKS = 2;  // of each of two arrays

constexpr double DENSITY = 0.39894228040143267794;  // 1 / sqrt(2 pi)
constexpr double SLOPE = 1.59576912160573071176;    // 2 sqrt(2 / pi)
constexpr double CUBE = 0.044715 * SLOPE;

// P(X > size) of a standard normal X for size >= 0, given e = e^(-size^2 / 2).
__device__ __forceinline__ float normal_tail(float size, float e) {
    // 2 q = e erfcx(size / sqrt 2): minimax coefficients, relative error 2e-7 while q > 0.
    float t = reciprocal(1 + 0.26516504f * size), p = 0.030713465f;
    p = p * t - 0.14340183f;
    p = p * t + 0.21567154f;
    p = p * t - 0.114120135f;
    p = p * t + 0.13646804f;
    p = p * t + 0.06091632f;
    p = p * t + 0.10261572f;
    p = p * t + 0.105330475f;
    p = p * t + 0.10580641f;
    return e * (t * p);
}
__device__ __forceinline__ double normal_tail(double size, double e) {
    return 0.5 * erfc(0.70710678118654752440 * size);
}

template <typename A>
__device__ __forceinline__ A gelu_erf(A x) {
    A q = normal_tail(abs(x), fast_exp(A(-0.5) * x * x));
    return x * (x < 0 ? q : 1 - q);
}

template <typename A>
__device__ __forceinline__ A gelu_tanh(A x) {
    return x * sigmoid(x * (A(SLOPE) + A(CUBE) * x * x));
}

// The slopes dy / dx.
template <typename A>
__device__ __forceinline__ A slope_erf(A x) {
    A e = fast_exp(A(-0.5) * x * x);
    A q = normal_tail(abs(x), e);
    return (x < 0 ? q : 1 - q) + x * (A(DENSITY) * e);
}

template <typename A>
__device__ __forceinline__ A slope_tanh(A x) {
    // s is 0 or 1 long before the bound, without which 0 * inf could follow.
    A curve = min(A(CUBE) * x * x, A(1000));
    A s = sigmoid(x * (A(SLOPE) + curve));
    return s + x * s * (1 - s) * (A(SLOPE) + 3 * curve);
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 8)
gelu_forward(T* y, const T* x, bool tanh_form, long long n) {
    using A = accum<T>;
    if (tanh_form)
        map_elements<THREADS, FORWARD_PACKS, T>(
            {y}, {x}, n, [](const A* in, A* out) { *out = gelu_tanh(*in); });
    else
        map_elements<THREADS, FORWARD_PACKS, T>(
            {y}, {x}, n, [](const A* in, A* out) { *out = gelu_erf(*in); });
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 8)
gelu_backward(T* dx, const T* dy, const T* x, bool tanh_form, long long n) {
    using A = accum<T>;
    if (tanh_form)
        map_elements<THREADS, BACKWARD_PACKS, T>(
            {dx}, {dy, x}, n, [](const A* in, A* out) { *out = in[0] * slope_tanh(in[1]); });
    else
        map_elements<THREADS, BACKWARD_PACKS, T>(
            {dx}, {dy, x}, n, [](const A* in, A* out) { *out = in[0] * slope_erf(in[1]); });
}
