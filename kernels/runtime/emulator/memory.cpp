// Shadow memory: every access of a kernel is announced here before it happens, by the calls that
// g++ -fsanitize=thread plants. Checked are bounds, alignment, reads of shared memory that nothing
// has written, and races: two threads, one of them writing, with no barrier in between.
//
// Per `granule` bytes one Cell keeps the last write and the last read as (epoch, clock, thread).
// The epoch counts barriers and blocks, the clock the __syncwarps of a warp since the barrier.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "state.h"

struct Cell {
    uint64_t write, read;        // epoch << 34 | clock << 18 | thread << 8 | flags
    uint32_t write_pc, read_pc;  // low halves
};

enum { ATOMIC = 1, ONE_WARP = 2, MANY_WARPS = 4, OTHER_BLOCK = 8, IN_FLIGHT = 16 };

static uint32_t epoch_of(uint64_t record) { return (uint32_t)(record >> 34); }
static uint16_t clock_of(uint64_t record) { return (uint16_t)(record >> 18); }
static int thread_of(uint64_t record) { return (int)(record >> 8) & 1023; }

static uint64_t record(int flags) {
    return (uint64_t)block.epoch << 34 | (uint64_t)now->clock << 18 | (uint64_t)now->id << 8 | flags;
}

// ---------------------------------------------------------------- what memory there is

struct Shared { const void* key; char *begin, *end; const char* name; };

static const long ARENA = 512 << 10, REDZONE = 256;
static const int MOST_DECLARED = 256;
static const long MOST_STATIC = 48 << 10;
static Shared declared[MOST_DECLARED];
static int declarations;
static long static_bytes;
static uint16_t* owner;                      // declaration + 1 of each granule of the arena
static Cell *shared_cells, *global_cells;
static long global_capacity;
static std::vector<long> first_cell;         // of each region
static std::vector<uint32_t> block_starts;   // epochs, to name the block of an earlier access:
static std::vector<uint64_t> block_numbers;  // this one,
static std::vector<uint32_t> released;       // which up to this epoch passed its work on: 0 none
static uint32_t fenced;                      // epoch of the running block's last fence: 0 none
static const emu_region* last_region;
static uintptr_t constant_page;              // of the kernel's own read-only data, seen last
static int shift;                            // log2 of the granule

static void* reserve(long bytes) {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0);
}

void memory_begin_launch() {
    if (!block.shared) {
        block.shared = (char*)reserve(ARENA);
        owner = (uint16_t*)reserve(ARENA * sizeof *owner);
        shared_cells = (Cell*)reserve(ARENA * sizeof(Cell));
        block.arena_end = block.shared + ARENA;
        block.shared_end = block.shared;
    }
    memset(owner, 0, (block.shared_end - block.shared) * sizeof *owner);
    block.shared_end = block.shared;
    declarations = 0;
    static_bytes = 0;
    shift = __builtin_ctz(options.granule);
    long cells = 0;
    first_cell.clear();
    block_starts.clear();
    block_numbers.clear();
    released.clear();
    for (long r = 0; r < options.regions; r++) {
        first_cell.push_back(cells);
        cells += (options.region[r].bytes >> shift) + 2;
    }
    if (cells > global_capacity) {
        if (global_cells) munmap(global_cells, global_capacity * sizeof(Cell));
        global_capacity = cells * 2;
        global_cells = (Cell*)reserve(global_capacity * sizeof(Cell));
    }
    last_region = options.region;
}

void memory_forget() {
    if (shared_cells) munmap(shared_cells, ARENA * sizeof(Cell));
    if (global_cells) munmap(global_cells, global_capacity * sizeof(Cell));
    shared_cells = (Cell*)reserve(ARENA * sizeof(Cell));
    global_cells = nullptr;
    global_capacity = 0;
}

void memory_begin_block() {
    block_starts.push_back(block.block_start);
    block_numbers.push_back(block.number);
    released.push_back(0);
    fenced = 0;
}

char* shared_reserve(long bytes, long align, const char* name, bool dynamic) {
    if (dynamic && declarations) return declared[0].begin;  // reserved by the launch's first block
    char* begin = (char*)(((uintptr_t)block.shared_end + REDZONE + 127) & ~(uintptr_t)127);
    if (align < 16) begin += align;  // no better aligned than the kernel may rely on
    if (!dynamic) static_bytes += bytes;
    long dynamic_bytes = declarations && !declared[0].key ? declared[0].end - declared[0].begin : 0;
    if (static_bytes > MOST_STATIC)
        fail("%ld bytes of static shared memory: a block has %ld", static_bytes, MOST_STATIC);
    if (declarations == MOST_DECLARED)
        fail("more than %d declarations of shared memory", MOST_DECLARED);
    if (static_bytes + dynamic_bytes > MOST_SHARED)
        fail("%ld bytes of shared memory: a block has at most %ld", static_bytes + dynamic_bytes,
             MOST_SHARED);
    declared[declarations] = {nullptr, begin, begin + bytes, name};
    long first = (begin - block.shared) >> shift, last = (begin + bytes - 1 - block.shared) >> shift;
    declarations++;
    if (bytes) std::fill(owner + first, owner + last + 1, (uint16_t)declarations);
    block.shared_end = begin + bytes;
    return begin;
}

void* emu_shared(const void* key, long bytes, long align, const char* name, int) {
    for (int i = 0; i < declarations; i++)
        if (declared[i].key == key) return declared[i].begin;
    char* begin = shared_reserve(bytes, align, name, false);
    declared[declarations - 1].key = key;
    return begin;
}

void* emu_dynamic_shared(void) {
    if (declarations && !declared[0].key) return declared[0].begin;
    char me[96];
    fail("the kernel has dynamic shared memory, but the launch gives it 0 bytes\n  %s",
         who(*now, me));
}

// ---------------------------------------------------------------- what goes wrong

static const char* const DOES[] = {"read", "write", "atomic"};

static void describe(const void* address, char* to) {
    const char* a = (const char*)address;
    for (int i = 0; i < declarations; i++)
        if (a >= declared[i].begin && a < declared[i].end) {
            sprintf(to, "shared %s at byte %ld", declared[i].name, (long)(a - declared[i].begin));
            return;
        }
    for (long r = 0; r < options.regions; r++) {
        const emu_region& g = options.region[r];
        if (a >= g.begin && a < g.begin + g.bytes) {
            sprintf(to, "global %s[%ld]", g.name, (long)(a - g.begin) / g.itemsize);
            return;
        }
    }
    sprintf(to, "address %p", address);
}

// Which of the launch's blocks, in the order they ran, an epoch belongs to.
static long block_at(uint32_t epoch) {
    return std::upper_bound(block_starts.begin(), block_starts.end(), epoch) -
           block_starts.begin() - 1;
}

static void race(const char* what, const void* address, int kind, const void* pc, uint64_t before,
                 uint32_t pc_low, const char* did) {
    char place[200], me[96], other[160];
    describe(address, place);
    uintptr_t full = ((uintptr_t)pc & ~0xffffffffull) | pc_low;
    if (full > (uintptr_t)pc + (1ull << 31)) full -= 1ull << 32;
    if (full + (1ull << 31) < (uintptr_t)pc) full += 1ull << 32;
    int t = thread_of(before);
    long earlier = block_numbers[block_at(epoch_of(before))], x = block.grid[0], y = block.grid[1];
    sprintf(other, "block (%ld,%ld,%ld) thread (%u,%u,%u)", earlier % x, earlier / x % y,
            earlier / (x * y), threads[t].index[0], threads[t].index[1], threads[t].index[2]);
    fail("%s race on %s\n  %s%s at {pc:%p}\n  %s: %s at {pc:%p}, with no barrier in between",
         what, place, other, did, (void*)full, who(*now, me), DOES[kind], pc);
}

static void out_of_bounds(const char* space, const char* a, long bytes, int kind, const void* pc) {
    char me[96], nearest[240] = "";
    long best = 1l << 40;
    auto consider = [&](const char* begin, const char* end, const char* name, long itemsize) {
        long after = a + bytes - end, before = begin - a, off = after > before ? after : before;
        if (off >= best) return;
        best = off;
        if (itemsize)
            sprintf(nearest, " at %s[%ld], which has %ld elements", name,
                    (long)(a - begin) / itemsize - ((a < begin) && (begin - a) % itemsize ? 1 : 0),
                    (long)(end - begin) / itemsize);
        else
            sprintf(nearest, " at byte %ld of %s, which has %ld", (long)(a - begin), name,
                    (long)(end - begin));
    };
    for (int i = 0; i < declarations && space[0] == 's'; i++)
        consider(declared[i].begin, declared[i].end, declared[i].name, 0);
    for (long r = 0; r < options.regions && space[0] == 'g'; r++) {
        const emu_region& g = options.region[r];
        consider(g.begin, g.begin + g.bytes, g.name, g.itemsize);
    }
    fail("out of bounds: %s %s of %ld bytes%s\n  %s, {pc:%p}", space, DOES[kind], bytes, nearest,
         who(*now, me), pc);
}

static void misaligned(const void* address, long bytes, int kind, const void* pc) {
    char me[96], place[200];
    describe(address, place);
    fail("misaligned: %s of %ld bytes of %s, whose address is not a multiple of %ld\n  %s, {pc:%p}",
         DOES[kind], bytes, place, bytes, who(*now, me), pc);
}

static void read_only(const void* address, int kind, const void* pc) {
    char me[96], place[200];
    describe(address, place);
    fail("%s of %s, which is read-only\n  %s, {pc:%p}", DOES[kind], place, who(*now, me), pc);
}

static void stack_overflow(const void* pc) {
    char me[96];
    fail("stack overflow: calls too deep, or too many locals\n  %s, {pc:%p}", who(*now, me), pc);
}

// ---------------------------------------------------------------- one access

// Whether what `r` records happened before what the running thread does now.
template <bool GLOBAL>
static bool before(uint64_t r, bool acquired) {
    uint32_t e = epoch_of(r);
    if (e < (GLOBAL ? block.launch_start : block.block_start)) return true;  // another launch, block
    if (GLOBAL && e < block.block_start) return acquired && e <= released[block_at(e)];
    if (e != block.epoch || thread_of(r) == now->id) return true;
    int lane = thread_of(r) & 31;
    return thread_of(r) >> 5 == now->warp && now->seen[lane] > clock_of(r);
}

static void in_flight(const void* address, int kind, const void* pc, uint64_t r) {
    char me[96], other[96], place[200];
    describe(address, place);
    fail("%s of %s, into which an asynchronous copy is under way\n  %s, {pc:%p}\n"
         "  begun by %s, which has not waited for it", DOES[kind], place, who(*now, me), pc,
         who_is(thread_of(r), other));
}

template <bool GLOBAL>
static inline void check(Cell& c, const char* a, int kind, const void* pc) {
    bool atomic = kind == EMU_ATOMIC;
    if (!GLOBAL && c.write & IN_FLIGHT && epoch_of(c.write) >= block.block_start)
        in_flight(a, kind, pc, c.write);
    if (!before<GLOBAL>(c.write, block.acquired) && !(atomic && c.write & ATOMIC))
        race(kind == EMU_READ ? "read-write" : "write-write", a, kind, pc, c.write, c.write_pc,
             c.write & ATOMIC ? ": atomic" : ": write");
    if (kind == EMU_READ) {
        if (!GLOBAL && epoch_of(c.write) < block.block_start) {
            char me[96], place[200];
            describe(a, place);
            fail("read of %s, which no thread of this block has written\n  %s, {pc:%p}", place,
                 who(*now, me), pc);
        }
        int flags = 0;
        uint32_t e = epoch_of(c.read);
        if (e == block.epoch) {
            flags = c.read & (ONE_WARP | MANY_WARPS | OTHER_BLOCK);
            bool same_warp = thread_of(c.read) >> 5 == now->warp;
            if (same_warp && now->seen[thread_of(c.read) & 31] > clock_of(c.read))
                flags &= ~ONE_WARP;  // a __syncwarp since: those reads are over
            else if (thread_of(c.read) != now->id)
                flags |= same_warp ? ONE_WARP : MANY_WARPS;
        } else if (GLOBAL && e >= block.launch_start &&
                   (e < block.block_start || c.read & OTHER_BLOCK)) {
            flags = OTHER_BLOCK;
        }
        c.read = record(flags);
        c.read_pc = (uint32_t)(uintptr_t)pc;
        return;
    }
    uint64_t r = c.read;
    bool live = epoch_of(r) >= (GLOBAL ? block.launch_start : block.block_start);
    bool others = live && ((r & OTHER_BLOCK && !block.acquired) ||
                           (r & MANY_WARPS && epoch_of(r) == block.epoch));
    bool mates = live && r & ONE_WARP && epoch_of(r) == block.epoch;
    if (mates && thread_of(r) == now->id)  // the others of this warp read it too
        mates = now->clock <= clock_of(r);
    else
        mates = !before<GLOBAL>(r, block.acquired);
    if (others || mates)
        race("read-write", a, kind, pc, r, c.read_pc,  // of several, the last reader
             before<GLOBAL>(r, block.acquired) ? " and other threads: read" : ": read");
    c.write = record(atomic ? ATOMIC : 0);
    c.write_pc = (uint32_t)(uintptr_t)pc;
}

// Neither shared memory nor an array: the thread's own stack, or constants of the kernel.
static void elsewhere(const char* a, long bytes, int kind, const void* pc) {
    uintptr_t page = (uintptr_t)a >> 12;
    if (page == constant_page) return;
    if (a >= block.shared && a < block.arena_end) out_of_bounds("shared", a, bytes, kind, pc);
    for (long r = 0; r < options.regions; r++) {
        const emu_region& g = options.region[r];
        if (a < g.begin + g.bytes && a + bytes > g.begin)
            out_of_bounds("global", a, bytes, kind, pc);
    }
    Dl_info code, data;
    if (dladdr(pc, &code) && dladdr(a, &data) && code.dli_fbase == data.dli_fbase) {
        constant_page = page;
        return;
    }
    out_of_bounds("global", a, bytes, kind, pc);
}

template <bool ALIGNED>  // whether an access shares a cell with what it does not touch
static inline bool finer(long at, long bytes) {
    return ALIGNED ? bytes < options.granule : (at | bytes) & (options.granule - 1);
}

// ALIGNED: one load or store, which faults unless its address is a multiple of its size.
template <bool ALIGNED>
static inline __attribute__((always_inline)) void access(const void* address, long bytes, int kind,
                                                         const void* pc) {
    const char* a = (const char*)address;
    if (stack_pointer() < now->stack + STACK_RESERVE) stack_overflow(pc);
    if (a >= now->stack && a < now->stack_end) return;
    uintptr_t offset = (uintptr_t)(a - block.shared);
    if (offset < (uintptr_t)(block.shared_end - block.shared)) {
        long first = offset >> shift, last = (offset + bytes - 1) >> shift;
        if (!owner[first] || owner[last] != owner[first])
            out_of_bounds("shared", a, bytes, kind, pc);
        if (ALIGNED && offset & (bytes - 1)) misaligned(a, bytes, kind, pc);
        if (finer<ALIGNED>(offset, bytes)) fail("%s", TOO_FINE);
        if (options.profile) profile_access(a, bytes, EMU_SHARED, kind, pc);
        for (long i = first; i <= last; i++) check<false>(shared_cells[i], a, kind, pc);
        return;
    }
    const emu_region* g = last_region;
    if (!(options.regions && a >= g->begin && a + bytes <= g->begin + g->bytes)) {
        const emu_region *r = options.region, *end = r + options.regions;
        while (r < end && !(a >= r->begin && a + bytes <= r->begin + r->bytes)) r++;
        if (r == end) return elsewhere(a, bytes, kind, pc);
        last_region = g = r;
    }
    if (ALIGNED && (uintptr_t)a & (bytes - 1)) misaligned(a, bytes, kind, pc);
    if (options.profile) profile_access(a, bytes, EMU_GLOBAL, kind, pc);
    Cell* cells = global_cells + first_cell[g - options.region];
    long at = a - g->begin;
    if (finer<ALIGNED>(at, bytes)) fail("%s", TOO_FINE);
    if (kind != EMU_READ && !g->writable) read_only(a, kind, pc);
    long first = at >> shift, last = (at + bytes - 1) >> shift;
    for (long i = first; i <= last; i++) check<true>(cells[i], a, kind, pc);
}

void emu_access(const void* address, long bytes, int kind, const void* pc) {
    if (kind == EMU_ATOMIC) {
        block.did_atomic = true;
        released.back() = fenced;
    }
    access<true>(address, bytes, kind, pc);
}

void emu_access_range(const void* address, long bytes, int kind, const void* pc) {
    if (bytes) access<false>(address, bytes, kind, pc);
}

// After its work a block fences, then tells the others by an atomic; who learns of it by an atomic,
// then fences, may take that work up.
void emu_fence(void) {
    block.acquired |= block.did_atomic;
    fenced = block.epoch;
}

void emu_copy(void* to, const void* from, long bytes) { memcpy(to, from, bytes); }

void emu_fill(void* to, int byte, long bytes) { memset(to, byte, bytes); }

void memory_in_flight(char* to, long bytes, bool begins) {
    for (long i = (to - block.shared) >> shift; i <= (to + bytes - 1 - block.shared) >> shift; i++)
        shared_cells[i].write = record(begins ? IN_FLIGHT : 0);
}

// ---------------------------------------------------------------- what the compiler calls

#define ANNOUNCE(NAME, FIT, BYTES, KIND) \
    extern "C" void NAME(void* a) { access<FIT>(a, BYTES, KIND, __builtin_return_address(0)); }
#define ANNOUNCE_ALL(PREFIX, FIT) \
    ANNOUNCE(PREFIX##read1, FIT, 1, EMU_READ) ANNOUNCE(PREFIX##read2, FIT, 2, EMU_READ) \
    ANNOUNCE(PREFIX##read4, FIT, 4, EMU_READ) ANNOUNCE(PREFIX##read8, FIT, 8, EMU_READ) \
    ANNOUNCE(PREFIX##read16, FIT, 16, EMU_READ) \
    ANNOUNCE(PREFIX##write1, FIT, 1, EMU_WRITE) ANNOUNCE(PREFIX##write2, FIT, 2, EMU_WRITE) \
    ANNOUNCE(PREFIX##write4, FIT, 4, EMU_WRITE) ANNOUNCE(PREFIX##write8, FIT, 8, EMU_WRITE) \
    ANNOUNCE(PREFIX##write16, FIT, 16, EMU_WRITE)
ANNOUNCE_ALL(__tsan_, true)
ANNOUNCE_ALL(__tsan_unaligned_, false)  // of a type whose alignment is less: several on a GPU

extern "C" void __tsan_read_range(void* a, long n) {
    emu_access_range(a, n, EMU_READ, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* a, long n) {
    emu_access_range(a, n, EMU_WRITE, __builtin_return_address(0));
}
extern "C" void __tsan_init(void) {}
