// Counts what a warp's loads and stores cost on a GPU: 32-byte sectors of global memory, wavefronts
// of shared memory. Fibers of a warp run one after the other, so each thread keeps a list of its
// accesses; when the lanes meet again, equal positions of the lists are one request of the warp.
#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "state.h"

struct Access { const void* pc; uintptr_t address; int size, space, kind; };

static std::vector<Access> log_of[1024];
static std::unordered_map<uintptr_t, emu_line> lines;  // a copy is a load and a store in one place

void profile_begin_launch() {
    lines.clear();
    for (auto& log : log_of) log.clear();
}

void profile_access(const void* address, long bytes, int space, int kind, const void* pc) {
    log_of[now->id].push_back({pc, (uintptr_t)address, (int)bytes, space, kind});
}

static long sectors(const uintptr_t* address, int n, int size) {
    uintptr_t seen[32 * 5];
    int count = 0;
    for (int i = 0; i < n; i++)
        for (uintptr_t s = address[i] / 32; s <= (address[i] + size - 1) / 32; s++)
            if (count < 160) seen[count++] = s;
    std::sort(seen, seen + count);
    return std::unique(seen, seen + count) - seen;
}

// A warp's access is served 128 bytes at a time: all lanes for 4 bytes, a half warp for 8, a
// quarter for 16. Within one, lanes that want different words of one bank take turns.
static long wavefronts(const uintptr_t* address, int n, int size) {
    int together = size <= 4 ? 32 : 128 / size;
    long waves = 0;
    for (int start = 0; start < n; start += together) {
        std::vector<uintptr_t> words;
        for (int i = start; i < std::min(n, start + together); i++)
            for (uintptr_t w = address[i] / 4; w <= (address[i] + size - 1) / 4; w++)
                words.push_back(w);
        std::sort(words.begin(), words.end());
        words.erase(std::unique(words.begin(), words.end()), words.end());
        long bank[32] = {};
        for (uintptr_t w : words) bank[w % 32]++;
        waves += *std::max_element(bank, bank + 32);
    }
    return waves;
}

static long different(const uintptr_t* address, int n) {
    uintptr_t seen[32];
    std::copy(address, address + n, seen);
    std::sort(seen, seen + n);
    return std::unique(seen, seen + n) - seen;
}

static void count(const Access& a, const uintptr_t* address, int n) {
    emu_line& line = lines[(uintptr_t)a.pc * 8 + a.space * 4 + a.kind];
    line.pc = a.pc, line.space = a.space, line.kind = a.kind, line.size = a.size;
    line.threads += n;
    line.requests++;
    if (a.space == EMU_GLOBAL) {
        line.units += sectors(address, n, a.size);
        line.ideal += (different(address, n) * a.size + 31) / 32;
    } else {
        int together = a.size <= 4 ? 32 : 128 / a.size;
        line.units += wavefronts(address, n, a.size);
        line.ideal += (n + together - 1) / together;
    }
}

static void flush_together(int first, int n) {  // all lanes went the same way
    uintptr_t address[32];
    for (size_t k = 0; k < log_of[first].size(); k++) {
        for (int i = 0; i < n; i++) address[i] = log_of[first + i][k].address;
        count(log_of[first][k], address, n);
    }
}

static void flush_apart(int first, int n) {  // match the k-th time each came to an instruction
    struct Group { Access access; uintptr_t address[32]; int n; };
    std::vector<Group> groups;
    std::unordered_map<uintptr_t, int> group_of;
    for (int i = 0; i < n; i++) {
        std::unordered_map<const void*, int> times;
        for (const Access& a : log_of[first + i]) {
            uintptr_t key = (uintptr_t)a.pc * 0x9E3779B97F4A7C15ull + times[a.pc]++;
            auto found = group_of.emplace(key, (int)groups.size());
            if (found.second) groups.push_back({a, {}, 0});
            Group& g = groups[found.first->second];
            g.address[g.n++] = a.address;
        }
    }
    for (const Group& g : groups) count(g.access, g.address, g.n);
}

void profile_flush_warp(int warp) {
    int first = warp * 32, n = std::min(32, block.threads - first);
    bool together = true;
    for (int i = 1; i < n && together; i++) {
        const auto &a = log_of[first], &b = log_of[first + i];
        together = a.size() == b.size() &&
                   std::equal(a.begin(), a.end(), b.begin(),
                              [](const Access& p, const Access& q) { return p.pc == q.pc; });
    }
    together ? flush_together(first, n) : flush_apart(first, n);
    for (int i = 0; i < n; i++) log_of[first + i].clear();
}

long emu_profile(emu_line* to, long most) {
    long n = 0;
    for (const auto& entry : lines) {
        if (n < most) to[n] = entry.second;
        n++;
    }
    return n;
}
