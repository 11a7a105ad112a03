// Kernels that compute nothing, for bench/gpu_measure.py: how long a launch takes, and a delay behind
// which the host queues work ahead of the GPU.
// In: an address, which only says that they are for the GPU. Out: nothing.

constexpr int THREADS = 1;

__global__ void nothing(unsigned* unused) {}

__global__ void nothing_of_eight(
    unsigned* a, unsigned* b, unsigned* c, unsigned* d, float e, float f, int g, long long h) {}

// Busy for so many cycles of its multiprocessor.
__global__ void spin(unsigned* unused, long long cycles) {
#ifndef MINILLM_EMULATOR  // which has no clock
    const long long start = clock64();
    while (clock64() - start < cycles) {
    }
#endif
}
