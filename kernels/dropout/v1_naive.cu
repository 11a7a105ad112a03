// Dropout, step 1: one thread an element, which computes the Philox block of its word.
//
// A block has four words, so three quarters of the generator's work is thrown away: 10 rounds of
// 2 long multiplications and 2 three-way exclusive ors, in all some 90 instructions an element. An
// H200's data sheet (4.8 TB/s, 132 multiprocessors, 1.98 GHz) gives a multiprocessor 18 bytes a
// cycle, in which it issues 128 instructions of a thread: 55 for an element of float, which has 8
// bytes in and out, and 27 in bf16. And each thread asks for 4 or 2 bytes and waits: 2048 of them
// have 8 or 4 KB on their way on a multiprocessor, where some 40 KB are needed.
#include "types.cuh"

constexpr int THREADS = 256;       // a block
constexpr int PACKS = 0;           // of 16 bytes, a thread: one element instead

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

// Words below threshold (up to 2^32) are dropped, other elements times scale.
template <typename T>
__global__ void dropout(T* y, const T* x, unsigned long long threshold, accum<T> scale,
                        Schedule key0, Schedule key1, long long n) {
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    unsigned word[4];
    philox(word, i / 4, key0, key1);
    bool kept = (i % 4 == 0 ? word[0] : i % 4 == 1 ? word[1] : i % 4 == 2 ? word[2] : word[3])
        >= threshold;
    y[i] = from_accum<T>(kept ? to_accum(x[i]) * scale : 0);
}
