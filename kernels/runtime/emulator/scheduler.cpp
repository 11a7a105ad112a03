// Runs a grid: blocks in turn, a block's threads as fibers, until each has returned. Barriers and
// warp operations live here, and with them what is reported when threads do not meet.
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <utility>

#include "state.h"

static const long STACK = 64 << 10;
static const uint32_t MOST_EPOCHS = 1u << 30;  // what a cell of the shadow memory can hold

Thread* now;
Thread* threads;
Block block;
emu_options options;

static Fiber scheduler;
static char* stacks;
static char error[4096];
static bool failed;
static int turn[MOST_THREADS];
static emu_entry entry;
static void** arguments;
static long dynamic_bytes;
static uint32_t random_state;

const char* emu_error(void) { return error; }

const char* who_is(int id, char* to) {
    const Thread& t = threads[id];
    sprintf(to, "block (%u,%u,%u) thread (%u,%u,%u)", block.index[0], block.index[1],
            block.index[2], t.index[0], t.index[1], t.index[2]);
    return to;
}

const char* who(const Thread& t, char* to) { return who_is(t.id, to); }

void leave() { fiber_switch(now->fiber, scheduler); }

static void say(const char* format, va_list values) {
    vsnprintf(error, sizeof error, format, values);
    failed = true;
}

void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    say(format, values);
    va_end(values);
    leave();
    __builtin_unreachable();  // a failed launch never comes back to its fibers
}

static void report(const char* format, ...) __attribute__((format(printf, 1, 2)));
static void report(const char* format, ...) {  // from the scheduler itself
    va_list values;
    va_start(values, format);
    say(format, values);
    va_end(values);
}

// ---------------------------------------------------------------- barriers

static void wait_for(Wait what, int line) {
    now->wait = what;
    now->line = line;
    leave();
}

void emu_syncthreads(int line) { wait_for(AT_BLOCK, line); }

int emu_syncthreads_count(int predicate, int line) {
    now->predicate = predicate != 0;
    wait_for(AT_BLOCK, line);
    return (int)now->result;
}

static void next_epoch() {
    if (++block.epoch == MOST_EPOCHS) report("more than %u barriers and blocks", MOST_EPOCHS / 2);
}

static void open_barrier() {
    uint64_t count = 0;
    for (int i = 0; i < block.threads; i++) count += threads[i].predicate;
    for (int i = 0; i < block.threads; i++) {
        threads[i].result = count;
        threads[i].predicate = 0;
        threads[i].wait = READY;
    }
    int warps = (block.threads + 31) / 32;
    for (int w = 0; w < warps; w++) {
        if (options.profile) profile_flush_warp(w);
        warp_barrier(w);
    }
    next_epoch();
}

void emu_trap(const char* what, int line) {
    char me[96];
    fail("%s\n  %s, line %d", what, who(*now, me), line);
}

unsigned emu_index(int what) {
    const unsigned* of[] = {now->index, block.index, block.dim, block.grid};
    return of[what / 3][what % 3];
}

// ---------------------------------------------------------------- a block

static void run_thread() {
    copies_begin_thread();
    entry(arguments);
    now->wait = RETURNED;
    leave();
}

static void begin_block() {
    next_epoch();
    block.block_start = block.epoch;
    block.acquired = block.did_atomic = false;
    warp_begin_block();
    for (int i = 0; i < block.threads; i++) {
        Thread& t = threads[i];
        t.id = i;
        t.lane = i & 31;
        t.warp = i >> 5;
        t.index[0] = i % block.dim[0];
        t.index[1] = i / block.dim[0] % block.dim[1];
        t.index[2] = i / (block.dim[0] * block.dim[1]);
        t.wait = READY;
        t.predicate = t.clock = 0;
        memset(t.seen, 0, sizeof t.seen);
        // Tops of stacks start at different cache sets: a whole number of KB apart they would meet.
        t.stack = stacks + i * STACK;
        t.stack_end = t.stack + STACK - (i & 31) * 128;
        fiber_start(t.fiber, t.stack, t.stack_end - t.stack, run_thread);
    }
    memory_begin_block();
    if (dynamic_bytes) shared_reserve(dynamic_bytes, 128, "dynamic shared memory", true);
}

static uint32_t next_random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

static void choose_turns() {
    int n = block.threads;
    for (int i = 0; i < n; i++) turn[i] = options.order == 1 ? n - 1 - i : i;
    if (options.order == 2)
        for (int i = n - 1; i > 0; i--) std::swap(turn[i], turn[next_random() % (i + 1)]);
}

// All threads at the barrier: open it, unless they came to different ones.
static bool meet() {
    const Thread* first = nullptr;
    for (int i = 0; i < block.threads; i++) {
        const Thread& t = threads[i];
        char one[96], other[96];
        if (!first) first = &t;
        if (t.wait == first->wait && t.line == first->line) continue;
        const Thread &waits = t.wait == AT_BLOCK ? t : *first, &gone = &waits == &t ? *first : t;
        if (gone.wait == RETURNED)
            report("divergent barrier: one thread waits at __syncthreads, another has returned\n"
                   "  %s waits, line %d\n  %s has returned", who(waits, one), waits.line,
                   who(gone, other));
        else
            report("divergent barrier: threads of one block wait at different __syncthreads\n"
                   "  %s, line %d\n  %s, line %d", who(*first, one), first->line, who(t, other),
                   t.line);
        return false;
    }
    open_barrier();
    return !failed;
}

static void report_deadlock() {
    static const char* const AT[] = {"", "__syncthreads", "a warp operation", ""};
    char text[2048] = "", name[96];
    int used = 0, shown = 0;
    for (int i = 0; i < block.threads; i++) {
        const Thread& t = threads[i];
        if (i && t.wait == threads[i - 1].wait && t.line == threads[i - 1].line) continue;
        if (++shown > 8) break;
        int more = 0;
        while (i + more < block.threads && threads[i + more].wait == t.wait &&
               (t.wait == RETURNED || threads[i + more].line == t.line)) more++;
        used += snprintf(text + used, sizeof text - used, "\n  %s%s", who(t, name),
                         more > 1 ? " and those after it" : "");
        if (t.wait == RETURNED)
            used += snprintf(text + used, sizeof text - used, ": returned");
        else if (t.wait == AT_WARP)
            used += snprintf(text + used, sizeof text - used, ": at %s, line %d, for lanes 0x%08x",
                             AT[t.wait], t.line, t.mask);
        else
            used += snprintf(text + used, sizeof text - used, ": at %s, line %d", AT[t.wait],
                             t.line);
    }
    report("deadlock: no thread of the block can go on%s", text);
}

static bool run_block() {
    begin_block();
    choose_turns();
    for (;;) {
        int returned = 0, waiting = 0, ready = 0;
        for (int i = 0; i < block.threads; i++) {
            Thread& t = threads[turn[i]];
            if (t.wait != READY) continue;
            now = &t;
            fiber_switch(scheduler, t.fiber);
            if (failed) return false;
        }
        for (int i = 0; i < block.threads; i++) {
            returned += threads[i].wait == RETURNED;
            waiting += threads[i].wait == AT_BLOCK;
            ready += threads[i].wait == READY;
        }
        if (ready) continue;
        if (returned == block.threads) break;
        if (waiting && waiting + returned == block.threads) {
            if (!meet()) return false;
            if (options.order == 2) choose_turns();
        } else {
            report_deadlock();
            return false;
        }
    }
    if (options.profile)
        for (int w = 0; w < (block.threads + 31) / 32; w++) profile_flush_warp(w);
    return true;
}

// Blocks too run in the chosen order: random is a walk in steps of a prime, which meets each once.
static uint64_t choose_block(uint64_t i, uint64_t blocks) {
    if (options.order == 1) return blocks - 1 - i;
    if (options.order == 2) return (i * 2654435761u + options.seed) % blocks;
    return i;
}

int emu_launch(emu_entry run, void** args, const unsigned grid[3], const unsigned dim[3],
               long shared_bytes, const emu_options* how) {
    if (!threads) {
        threads = new Thread[MOST_THREADS]();
        stacks = (char*)mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    entry = run;
    arguments = args;
    dynamic_bytes = shared_bytes;
    options = *how;
    random_state = options.seed * 2654435761u + 1;
    failed = false;
    error[0] = 0;
    if (shared_bytes < 0 || shared_bytes > MOST_SHARED) {
        report("%ld bytes of dynamic shared memory: a block has at most %ld", shared_bytes,
               MOST_SHARED);
        return 1;
    }
    memcpy(block.dim, dim, sizeof block.dim);
    memcpy(block.grid, grid, sizeof block.grid);
    block.threads = (int)(dim[0] * dim[1] * dim[2]);
    if (block.epoch > MOST_EPOCHS / 2) {
        block.epoch = 0;
        memory_forget();
    }
    block.launch_start = ++block.epoch;
    memory_begin_launch();
    profile_begin_launch();
    uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    for (uint64_t i = 0; i < blocks; i++) {
        block.number = choose_block(i, blocks);
        block.index[0] = block.number % grid[0];
        block.index[1] = block.number / grid[0] % grid[1];
        block.index[2] = block.number / grid[0] / grid[1];
        if (!run_block()) return 1;
    }
    return 0;
}
