// The emulator's runtime: what a compiled kernel, the Python side and the parts of the runtime know
// of each other. In: calls below from kernel code. Out: scheduling, checks, counts.
//
// One fiber a CUDA thread, blocks in turn, all on the calling thread: a fiber runs until it waits
// at a barrier or a warp operation. Nothing is ever in flight at the same time, so what the checks
// report depends on the program and the chosen order of threads alone.
#pragma once

extern "C" {

typedef void (*emu_entry)(void** args);  // runs one CUDA thread from its first line to its end

// How to run: filled in by Python, field by field the same there (launch.py).
typedef struct {
    int order;              // of the threads: 0 forward, 1 reverse, 2 random
    unsigned seed;          // of the random order
    int granule;            // bytes that one cell of the shadow memory watches: 1, 2, 4
    int profile;            // count accesses, sectors and bank conflicts
    long regions;           // how many arrays the kernel was given
    const struct emu_region* region;
} emu_options;

struct emu_region {         // one array of global memory
    char* begin;
    long bytes;
    const char* name;       // of the kernel's parameter
    long itemsize;
    long writable;          // 0: a write is a fault
};

struct emu_line {           // counts of one load or store instruction
    const void* pc;         // after it
    int space, kind, size;  // EMU_GLOBAL / EMU_SHARED, EMU_READ ..., bytes a thread
    long threads, requests; // accesses by threads, and by warps (32 of them at once)
    long units, ideal;      // global: 32-byte sectors moved; shared: wavefronts; and the fewest
};

enum { EMU_READ, EMU_WRITE, EMU_ATOMIC };
enum { EMU_GLOBAL, EMU_SHARED };

// Runs `entry` for each thread of each block. 0, or 1 with emu_error() saying what went wrong:
// "granule" if an access was smaller than `options->granule` or began between two.
int emu_launch(emu_entry entry, void** args, const unsigned grid[3], const unsigned block[3],
               long dynamic_shared_bytes, const emu_options* options);
const char* emu_error(void);             // {pc:ADDRESS} stands where a source line belongs
long emu_profile(struct emu_line* to, long most);  // the counts of the last launch; how many

// 0-2 threadIdx, 3-5 blockIdx, 6-8 blockDim, 9-11 gridDim. For one thread it never changes.
__attribute__((const)) unsigned emu_index(int what);
void emu_syncthreads(int line);
int emu_syncthreads_count(int predicate, int line);
void emu_syncwarp(unsigned mask, int line);
// kind: 0 from lane `lane`, 1 up, 2 down, 3 xor. Returns the bits of the source lane.
unsigned long long emu_shuffle(int kind, unsigned mask, unsigned long long bits, int lane,
                               int width, int line);
unsigned emu_ballot(unsigned mask, int predicate, int line);
unsigned emu_activemask(void);
// Shared memory of the declaration `key`: the same for all threads of a block, new for each block.
void* emu_shared(const void* key, long bytes, long align, const char* name, int line);
void* emu_dynamic_shared(void);
void emu_fence(void);                    // __threadfence
// An access that the compiler does not announce by itself: vectors, atomics, copies.
void emu_access(const void* address, long bytes, int kind, const void* pc);
void emu_access_range(const void* address, long bytes, int kind, const void* pc);  // any number
void emu_copy(void* to, const void* from, long bytes);  // announces nothing
void emu_fill(void* to, int byte, long bytes);          // neither does this
// Asynchronous copies of a thread, in groups: done in the wait that leaves at most `later` groups.
void emu_copy_async(void* to, const void* from, long bytes, const void* pc);
void emu_copy_commit(void);
void emu_copy_wait(int later);
void emu_trap(const char* what, int line);              // the kernel itself gives up

}  // extern "C"
