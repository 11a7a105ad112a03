// Dropout, step 2: 16 bytes a load, and all four words of a Philox block put to use.
//
// A pack of 4 floats needs exactly one block, one of 8 bf16 two. So the generator takes a quarter
// of step 1's instructions, and all that finds the place of an element is done once for 4 or 8 of
// them: in bf16 some 19 instructions an element are left, of the 27 that the memory's speed allows.
//
// A thread asks for its 4 packs before it uses the first: 64 bytes on their way, 64 KB with the
// 1024 threads that 64 registers each allow on a multiprocessor. The words do not depend on x, so
// they are computed while memory is busy.
//
// asserts: no spills, registers <= 64, 128-bit loads, 128-bit stores
#include "pack.cuh"

constexpr int THREADS = 128;       // a block
constexpr int PACKS = 4;           // of 16 bytes, a thread

struct Schedule { unsigned word[10]; };  // what one word of the key is in each round

// Philox4x32-10 (philox.py): the words of block `counter`.
__device__ __forceinline__ void philox(unsigned (&word)[4], unsigned long long counter,
                                       const Schedule& key0, const Schedule& key1) {
    unsigned c0 = (unsigned)counter, c1 = (unsigned)(counter >> 32), c2 = 0, c3 = 0;
    #pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned long long product0 = 0xD2511F53ull * c0, product1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(product1 >> 32) ^ c1 ^ key0.word[round];
        c1 = (unsigned)product1;
        c2 = (unsigned)(product0 >> 32) ^ c3 ^ key1.word[round];
        c3 = (unsigned)product0;
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
}

// What becomes of x with this word of the generator.
template <typename T>
__device__ __forceinline__ T drop(T x, unsigned word, unsigned long long threshold,
                                  accum<T> scale) {
    return from_accum<T>(word >= threshold ? to_accum(x) * scale : 0);
}

// Pack number p, whose first element is number p * N.
template <typename T>
__device__ __forceinline__ Pack<T> drop(Pack<T> x, long long p, unsigned long long threshold,
                                        accum<T> scale, const Schedule& key0,
                                        const Schedule& key1) {
    constexpr int N = Pack<T>::N;
    unsigned word[4];
    #pragma unroll
    for (int j = 0; j < N; j++) {
        if (j % 4 == 0) philox(word, p * N / 4 + j / 4, key0, key1);
        bool second = N == 2 && p % 2 == 1;  // two packs of double share a block
        x[j] = drop(x[j], second ? word[j % 2 + 2] : word[j % 4], threshold, scale);
    }
    return x;
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 8)
dropout(T* y, const T* x, unsigned long long threshold, accum<T> scale, Schedule key0,
        Schedule key1, long long n) {
    constexpr int N = Pack<T>::N;
    long long thread = (long long)blockIdx.x * THREADS + threadIdx.x;
    long long threads = (long long)gridDim.x * THREADS;
    long long packs = aligned16(x) && aligned16(y) ? n / N : 0;

    if (thread + (PACKS - 1) * threads < packs) {
        Pack<T> v[PACKS];
        #pragma unroll
        for (int k = 0; k < PACKS; k++) v[k] = load_pack_once(x + (thread + k * threads) * N);
        #pragma unroll
        for (int k = 0; k < PACKS; k++) {
            long long p = thread + k * threads;
            store_pack(y + p * N, drop(v[k], p, threshold, scale, key0, key1));
        }
    } else {  // fewer are left, as in arrays too small to give all threads PACKS of them
        #pragma unroll 1
        for (long long p = thread; p < packs; p += threads)
            store_pack(y + p * N,
                       drop(load_pack_once(x + p * N), p, threshold, scale, key0, key1));
    }
    #pragma unroll 1
    for (long long i = packs * N + thread; i < n; i += threads) {  // behind the packs, or unaligned
        unsigned word[4];
        philox(word, i / 4, key0, key1);
        y[i] = drop(x[i], i % 4 < 2 ? word[i % 2] : word[i % 2 + 2], threshold, scale);
    }
}
