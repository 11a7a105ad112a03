// A fiber: a stack of its own, and a switch between two of them in a few nanoseconds.
// x86-64 in ten instructions; elsewhere POSIX ucontext, whose system calls make it slower.
#pragma once

#if defined(__x86_64__)

struct Fiber { void* sp; };

extern "C" void emu_switch(void** save, void* load);  // fibers.cpp

inline void fiber_start(Fiber& fiber, char* stack, long bytes, void (*run)()) {
    void** top = (void**)((unsigned long)(stack + bytes) & ~63ul);
    *--top = nullptr;          // where `run` would return to: it never does
    *--top = (void*)run;       // what the first switch returns into, on a stack aligned as called
    fiber.sp = top - 6;        // six registers are popped before that; their values do not matter
}

inline void fiber_switch(Fiber& from, Fiber& to) { emu_switch(&from.sp, to.sp); }

inline const char* stack_pointer() {
    const char* sp;
    asm("movq %%rsp, %0" : "=r"(sp));
    return sp;
}

#else

#include <ucontext.h>

struct Fiber { ucontext_t context; };

inline void fiber_start(Fiber& fiber, char* stack, long bytes, void (*run)()) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run, 0);
}

inline void fiber_switch(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

inline const char* stack_pointer() { return (const char*)__builtin_frame_address(0); }

#endif
