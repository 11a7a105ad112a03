// The state that the parts of the runtime share: the threads of the current block, and the clocks
// by which the shadow memory knows what happened before what.
#pragma once

#include <cstdint>

#include "fibers.h"
#include "runtime.h"

enum Wait { READY, AT_BLOCK, AT_WARP, RETURNED };
enum WarpOp { OP_SYNC, OP_SHUFFLE, OP_BALLOT };

static const int MOST_THREADS = 1024;            // of a block

struct Thread {
    Fiber fiber;
    char *stack, *stack_end;
    unsigned index[3];           // threadIdx
    int id, lane, warp;          // id = x + y X + z X Y
    Wait wait;
    int line;                    // where it waits
    // A warp operation: what this lane brings, and what it is given when all of `mask` are there.
    int op, kind, source, width;
    unsigned mask;
    uint64_t value, result;
    int predicate;               // of __syncthreads_count
    // Order inside a warp: `clock` is the number of the last __syncwarp this lane took part in;
    // what lane j did before its clock reached seen[j] is known to be over.
    uint16_t clock, seen[32];
};

struct Block {
    unsigned index[3], dim[3], grid[3];
    uint64_t number;             // of blockIdx, x fastest
    int threads;
    uint32_t launch_start, block_start, epoch;  // epochs count barriers, over many launches
    bool acquired;               // an atomic and a fence: what earlier blocks did is over
    bool did_atomic;
    char *shared, *shared_end, *arena_end;      // in use, and all of it
};

extern Thread* now;              // the thread that runs
extern Thread* threads;
extern Block block;
extern emu_options options;

static const long MOST_SHARED = 227 << 10;       // bytes of a block on a Hopper
static const long STACK_RESERVE = 8 << 10;       // of a fiber's stack, to report an overflow from
static const char* const TOO_FINE = "granule";   // an access smaller than the cells watch

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
const char* who(const Thread& t, char* to);      // "block (0,0,0) thread (17,0,0)"
const char* who_is(int id, char* to);            // a thread of this block, by number

void leave();                                    // the running thread: until it can go on

void warp_begin_block();
void warp_barrier(int warp);                     // a __syncthreads has opened

void memory_begin_launch();
void memory_forget();                            // of all that was, but what is reserved
void memory_begin_block();
void memory_in_flight(char* to, long bytes, bool begins);  // a copy into shared memory
char* shared_reserve(long bytes, long align, const char* name, bool dynamic);

void copies_begin_thread();                      // `now` is about to run its first line

void profile_begin_launch();
void profile_access(const void* address, long bytes, int space, int kind, const void* pc);
void profile_flush_warp(int warp);               // its lanes are together again
