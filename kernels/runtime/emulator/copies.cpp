// Asynchronous copies into shared memory, in groups: done as late as the program allows, in the
// wait for them. Until then the shadow memory reports whoever touches the place.
#include <cstring>
#include <vector>

#include "state.h"

struct Copy { char* to; const char* from; long bytes; int group; };
static std::vector<Copy> copies[MOST_THREADS];  // of each thread, the oldest first
static int groups[MOST_THREADS];                // that it has committed

void copies_begin_thread() {
    copies[now->id].clear();
    groups[now->id] = 0;
}

void emu_copy_async(void* to, const void* from, long bytes, const void* pc) {
    emu_access(from, bytes, EMU_READ, pc);
    emu_access(to, bytes, EMU_WRITE, pc);  // whatever is there must be over and done with
    memory_in_flight((char*)to, bytes, true);
    copies[now->id].push_back({(char*)to, (const char*)from, bytes, groups[now->id]});
}

void emu_copy_commit(void) { groups[now->id]++; }

void emu_copy_wait(int later) {
    auto& mine = copies[now->id];
    size_t done = 0;
    for (; done < mine.size() && mine[done].group < groups[now->id] - later; done++) {
        const Copy& c = mine[done];
        memory_in_flight(c.to, c.bytes, false);
        memcpy(c.to, c.from, c.bytes);
    }
    mine.erase(mine.begin(), mine.begin() + done);
}
