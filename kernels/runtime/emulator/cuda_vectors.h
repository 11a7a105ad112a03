// CUDA's vector types on the emulator. Copying one is one access of its whole size, as on a GPU:
// the copies are announced by hand, since g++ would take them apart into their members.
#pragma once

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define EMU_VECTOR(NAME, ALIGN, ...) \
    struct alignas(ALIGN) NAME { \
        __VA_ARGS__; \
        NAME() = default; \
        __attribute__((always_inline)) NAME(const NAME& other) { take(&other, emu::here()); } \
        __attribute__((always_inline)) NAME& operator=(const NAME& other) { \
            take(&other, emu::here()); \
            return *this; \
        } \
        __attribute__((always_inline)) void take(const NAME* other, const void* pc) { \
            emu_access(other, sizeof(NAME), EMU_READ, pc); \
            emu_access(this, sizeof(NAME), EMU_WRITE, pc); \
            emu_copy(this, other, sizeof(NAME)); \
        } \
    };
#define EMU_VECTORS(T, NAME, SIZE) \
    EMU_VECTOR(NAME##2, 2 * SIZE, T x; T y) \
    EMU_VECTOR(NAME##4, (4 * SIZE > 16 ? 16 : 4 * SIZE), T x; T y; T z; T w) \
    inline NAME##2 make_##NAME##2(T x, T y) { NAME##2 v; v.x = x, v.y = y; return v; } \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { \
        NAME##4 v; \
        v.x = x, v.y = y, v.z = z, v.w = w; \
        return v; \
    }
EMU_VECTORS(float, float, 4)
EMU_VECTORS(int, int, 4)
EMU_VECTORS(unsigned, uint, 4)
EMU_VECTORS(unsigned short, ushort, 2)
EMU_VECTOR(double2, 16, double x; double y)
inline double2 make_double2(double x, double y) { double2 v; v.x = x, v.y = y; return v; }
