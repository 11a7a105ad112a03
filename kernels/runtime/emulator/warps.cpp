// Operations of the lanes of a warp that `mask` names: __syncwarp, shuffles, votes. The last lane
// to arrive does the work of all.
#include <cstring>

#include "state.h"

static uint16_t warp_clock[MOST_THREADS / 32];

void warp_begin_block() { memset(warp_clock, 0, sizeof warp_clock); }

void warp_barrier(int w) {
    if (!warp_clock[w]) return;
    warp_clock[w] = 0;
    for (int i = w * 32; i < block.threads && i < w * 32 + 32; i++) {
        threads[i].clock = 0;
        memset(threads[i].seen, 0, sizeof threads[i].seen);
    }
}

static Thread* lanes() { return threads + (now->id & ~31); }
static int lane_count() {
    int left = block.threads - (now->id & ~31);
    return left < 32 ? left : 32;
}

static void finish_sync(Thread* lane, unsigned mask) {
    char me[96];
    if (warp_clock[now->warp] == UINT16_MAX)
        fail("more than %d __syncwarp of a warp without a __syncthreads\n  %s, line %d", UINT16_MAX,
             who(*now, me), now->line);
    uint16_t clock = ++warp_clock[now->warp], seen[32] = {};
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        for (int j = 0; j < 32; j++)
            if (lane[i].seen[j] > seen[j]) seen[j] = lane[i].seen[j];
    }
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) seen[i] = clock;
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        memcpy(lane[i].seen, seen, sizeof seen);
        lane[i].clock = clock;
    }
}

static void finish_shuffle(Thread* lane, unsigned mask) {
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        const Thread& t = lane[i];
        int first = i & ~(t.width - 1), last = first + t.width - 1, from = i;
        if (t.kind == 0) from = first + (t.source & (t.width - 1));
        if (t.kind == 1) from = i - t.source < first ? i : i - t.source;
        if (t.kind == 2) from = i + t.source > last ? i : i + t.source;
        if (t.kind == 3) from = (i ^ t.source) > last ? i : i ^ t.source;
        if (!(mask >> from & 1)) {
            char me[96];
            fail("shuffle reads lane %d, which is not in its mask 0x%08x%s\n  %s, line %d", from,
                 mask, from < lane_count() ? "" : " (the block ends before it)", who(t, me), t.line);
        }
        lane[i].result = lane[from].value;
    }
}

static void finish_ballot(Thread* lane, unsigned mask) {
    unsigned votes = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && lane[i].value) votes |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) lane[i].result = votes;
}

// The last lane of `mask` to arrive finishes the operation for all and runs on; the others wait.
static uint64_t warp_operation(int op, unsigned mask, int line) {
    static const char* const NAME[] = {"__syncwarp", "shuffle", "ballot"};
    Thread* lane = lanes();
    int count = lane_count();
    char me[96], other[96];
    unsigned present = count == 32 ? ~0u : (1u << count) - 1;
    if (!(mask >> now->lane & 1))
        fail("%s with mask 0x%08x, in which its own lane %d is missing\n  %s, line %d", NAME[op],
             mask, now->lane, who(*now, me), line);
    mask &= present;  // a block that is not whole warps: the lanes beyond it do not exist
    now->op = op;
    now->mask = mask;
    now->line = line;
    now->wait = AT_WARP;
    bool all = true;
    for (int i = 0; i < count; i++) {
        const Thread& t = lane[i];
        if (!(mask >> i & 1) || &t == now) continue;
        if (t.wait == RETURNED)
            fail("%s waits for lane %d (mask 0x%08x), which has returned\n  %s, line %d\n  %s",
                 NAME[op], i, mask, who(*now, me), line, who(t, other));
        if (t.wait == AT_WARP && (t.op != op || t.mask != mask || t.line != line))
            fail("divergent warp: lanes of one mask wait at different operations\n"
                 "  %s at %s, line %d, mask 0x%08x\n  %s at %s, line %d, mask 0x%08x",
                 who(*now, me), NAME[op], line, mask, who(t, other), NAME[t.op], t.line, t.mask);
        all &= t.wait == AT_WARP;
    }
    if (!all) {
        leave();
        return now->result;
    }
    if (op == OP_SYNC) finish_sync(lane, mask);
    if (op == OP_SHUFFLE) finish_shuffle(lane, mask);
    if (op == OP_BALLOT) finish_ballot(lane, mask);
    for (int i = 0; i < count; i++)
        if (mask >> i & 1) lane[i].wait = READY;
    if (options.profile && mask == present) profile_flush_warp(now->warp);
    return now->result;
}

void emu_syncwarp(unsigned mask, int line) { warp_operation(OP_SYNC, mask, line); }

unsigned long long emu_shuffle(int kind, unsigned mask, unsigned long long bits, int lane,
                               int width, int line) {
    char me[96];
    if (width < 1 || width > 32 || width & (width - 1))
        fail("shuffle with width %d: it must be a power of two up to 32\n  %s, line %d", width,
             who(*now, me), line);
    now->kind = kind;
    now->source = lane;
    now->width = width;
    now->value = bits;
    return warp_operation(OP_SHUFFLE, mask, line);
}

unsigned emu_ballot(unsigned mask, int predicate, int line) {
    now->value = predicate != 0;
    return (unsigned)warp_operation(OP_BALLOT, mask, line);
}

unsigned emu_activemask(void) {
    unsigned active = 0;
    Thread* lane = lanes();
    for (int i = 0; i < lane_count(); i++)
        if (lane[i].wait == READY) active |= 1u << i;
    return active;
}
