// Lets kernels in CUDA C++ compile as C++ for the host, for tests: one thread runs a block, its CUDA threads are fibers.
//
// What it checks that a GPU does not: a barrier that not all threads of the block reach, and a shuffle that not all the
// named lanes of the warp reach, are errors. Shared memory is garbage when a block begins, threads run in an order that
// changes from block to block and back to front, and a lane that takes no part in a shuffle gives garbage.
//
// What it does not: races within a warp between two barriers, the memory model, speed. No dynamic shared memory, no
// headers of CUDA, no inline PTX. Not thread-safe: one kernel at a time in a process.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("regatta_shared")))
#define warpSize 32

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

extern "C" {
extern char __start_regatta_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_regatta_shared[] __attribute__((weak, visibility("hidden")));
}

namespace regatta_shim {

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
    std::unique_ptr<char[]> stack;
    ucontext_t start;
    jmp_buf here;
    bool started = false;
    uint3 index;
    State state;
    unsigned mask;  // of the warp barrier that it waits at
    unsigned long long slot;  // what it shows to the lanes of its warp
    bool shows;
};

static constexpr size_t stack_bytes = 64 * 1024;
static std::vector<Fiber> fibers;
static size_t threads, current;
static bool trapped;
static jmp_buf scheduler;
static void (*body)(void*);
static void* body_data;

// A fiber runs the kernel for one thread of each block, again and again. glibc's swapcontext asks the system for the signal
// mask at each switch; so only the first one goes through it.
inline void wait_for(State state) {
    Fiber& me = fibers[current];
    me.state = state;
    if (_setjmp(me.here) == 0) _longjmp(scheduler, 1);
}

inline void run_for_ever() {
    for (;;) {
        body(body_data);
        wait_for(State::done);
    }
}

inline void resume(size_t thread) {
    Fiber& fiber = fibers[thread];
    current = thread;
    threadIdx = fiber.index;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.here, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

// The lanes of this warp that are named, exist and have not ended.
inline unsigned awaited(size_t warp, unsigned mask) {
    unsigned lanes = 0;
    for (size_t lane = 0; lane < 32 && warp * 32 + lane < threads; lane++)
        if ((mask >> lane & 1) && fibers[warp * 32 + lane].state != State::done) lanes |= 1u << lane;
    return lanes;
}

inline bool release_warps() {
    bool released = false;
    for (size_t warp = 0; warp * 32 < threads; warp++) {
        for (size_t lane = 0; lane < 32 && warp * 32 + lane < threads; lane++) {
            Fiber& fiber = fibers[warp * 32 + lane];
            if (fiber.state != State::at_warp_barrier) continue;
            unsigned there = 0, wanted = awaited(warp, fiber.mask);
            for (size_t other = 0; other < 32 && warp * 32 + other < threads; other++) {
                Fiber& peer = fibers[warp * 32 + other];
                if (peer.state == State::at_warp_barrier && peer.mask == fiber.mask) there |= 1u << other;
            }
            if ((wanted & ~there) != 0) continue;
            for (size_t other = 0; other < 32; other++)
                if (wanted >> other & 1) fibers[warp * 32 + other].state = State::ready;
            released = true;
        }
    }
    return released;
}

inline bool release_block() {
    for (size_t i = 0; i < threads; i++)
        if (fibers[i].state == State::ready || fibers[i].state == State::at_warp_barrier) return false;
    bool released = false;
    for (size_t i = 0; i < threads; i++)
        if (fibers[i].state == State::at_block_barrier) {
            fibers[i].state = State::ready;
            released = true;
        }
    return released;
}

inline bool run_block(bool backwards) {
    if (__start_regatta_shared) memset(__start_regatta_shared, 0xA5, __stop_regatta_shared - __start_regatta_shared);
    for (size_t i = 0; i < threads; i++) {
        fibers[i].state = State::ready;
        fibers[i].shows = false;
    }
    do {
        for (size_t i = 0; i < threads && !trapped; i++) {
            size_t thread = backwards ? threads - 1 - i : i;
            if (fibers[thread].state == State::ready) resume(thread);
        }
        backwards = !backwards;
    } while (!trapped && (release_warps() || release_block()));
    for (size_t i = 0; i < threads; i++)
        if (fibers[i].state != State::done) return false;
    return !trapped;
}

inline void prepare(const unsigned block[3]) {
    blockDim = {block[0], block[1], block[2]};
    threads = size_t(block[0]) * block[1] * block[2];
    // Fibers that are in the middle of a failed block are of no use any more.
    for (Fiber& fiber : fibers)
        if (fiber.started && (trapped || fiber.state != State::done)) fiber.started = false;
    trapped = false;
    if (fibers.size() < threads) {
        // Their saved registers point into their stacks, not into this vector: it may move them.
        fibers.resize(threads);
    }
    for (size_t i = 0; i < threads; i++) {
        Fiber& fiber = fibers[i];
        unsigned n = unsigned(i);
        fiber.index = {n % block[0], n / block[0] % block[1], n / (block[0] * block[1])};
        if (fiber.started) continue;
        if (!fiber.stack) fiber.stack.reset(new char[stack_bytes]);
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = stack_bytes;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, run_for_ever, 0);
    }
}

template <class... A, size_t... I>
unsigned run(void (*kernel)(A...), const unsigned grid[3], const unsigned block[3], void** args, std::index_sequence<I...>) {
    struct Call {
        void (*kernel)(A...);
        void** args;
    } call = {kernel, args};
    body_data = &call;
    body = [](void* data) {
        Call& call = *static_cast<Call*>(data);
        call.kernel(*static_cast<A*>(call.args[I])...);
    };
    prepare(block);
    gridDim = {grid[0], grid[1], grid[2]};
    bool backwards = false;
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) {
                if (!run_block(backwards)) return 719;
                backwards = !backwards;
            }
    return 0;
}

template <class... A>
unsigned launch(void (*kernel)(A...), const unsigned grid[3], const unsigned block[3], void** args) {
    return run(kernel, grid, block, args, std::index_sequence_for<A...>{});
}

template <class... A>
size_t sizes_of(void (*)(A...), size_t sizes[64]) {
    size_t all[] = {sizeof(A)..., 0};
    for (size_t i = 0; i < sizeof...(A); i++) sizes[i] = all[i];
    return sizeof...(A);
}

inline void sync_warp(unsigned mask) {
    fibers[current].mask = mask;
    wait_for(State::at_warp_barrier);
}

// Shows a value to the lanes of the warp and takes that of one of them.
template <class T>
T exchange(unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) <= 8, "shuffles are of 4 or 8 bytes");
    size_t me = current;
    memcpy(&fibers[me].slot, &value, sizeof(T));
    fibers[me].shows = true;
    sync_warp(mask);
    T result;
    size_t peer = (me & ~size_t(31)) + from;
    if (peer < threads && fibers[peer].shows) memcpy(&result, &fibers[peer].slot, sizeof(T));
    else memset(&result, 0xA5, sizeof(T));
    sync_warp(mask);
    fibers[me].shows = false;
    return result;
}

inline unsigned lane() { return current & 31; }

inline unsigned ballot(unsigned mask, bool predicate) {
    size_t me = current, warp = me & ~size_t(31);
    fibers[me].slot = predicate;
    fibers[me].shows = true;
    sync_warp(mask);
    unsigned bits = 0;
    for (size_t lane = 0; lane < 32 && warp + lane < threads; lane++)
        if ((mask >> lane & 1) && fibers[warp + lane].shows && fibers[warp + lane].slot) bits |= 1u << lane;
    sync_warp(mask);
    fibers[me].shows = false;
    return bits;
}

}  // namespace regatta_shim

inline void __trap() {
    regatta_shim::trapped = true;
    regatta_shim::wait_for(regatta_shim::State::done);
}
inline void __syncthreads() { regatta_shim::wait_for(regatta_shim::State::at_block_barrier); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { regatta_shim::sync_warp(mask); }
template <class T>
T __shfl_sync(unsigned mask, T value, unsigned from) {
    return regatta_shim::exchange(mask, value, from & 31);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits) {
    return regatta_shim::exchange(mask, value, regatta_shim::lane() ^ bits);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    unsigned from = regatta_shim::lane() + by;
    return regatta_shim::exchange(mask, value, from < 32 ? from : regatta_shim::lane());
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
    unsigned me = regatta_shim::lane();
    return regatta_shim::exchange(mask, value, me >= by ? me - by : me);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return regatta_shim::ballot(mask, predicate != 0); }

template <class T>
T atomicAdd(T* at, T value) {
    T old = *at;
    *at = old + value;
    return old;
}
template <class T>
T atomicAnd(T* at, T value) {
    T old = *at;
    *at = old & value;
    return old;
}
template <class T>
T atomicOr(T* at, T value) {
    T old = *at;
    *at = old | value;
    return old;
}
template <class T>
T atomicMax(T* at, T value) {
    T old = *at;
    if (value > old) *at = value;
    return old;
}

template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __int_as_float(int bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline int __float_as_int(float x) {
    int bits;
    memcpy(&bits, &x, 4);
    return bits;
}

// Makes a kernel callable from outside: `<name>_on_host` runs its whole grid and returns 0, or 719 (the driver's "launch
// failed") for a trap and for a barrier that not all threads reach; `<name>_arg_sizes` tells how many arguments it has, and
// how large each is.
#define REGATTA_KERNEL(name)                                                                                       \
    extern "C" unsigned name##_on_host(const unsigned grid[3], const unsigned block[3], unsigned, void** args) {   \
        return regatta_shim::launch(&name, grid, block, args);                                                     \
    }                                                                                                              \
    extern "C" size_t name##_arg_sizes(size_t sizes[64]) { return regatta_shim::sizes_of(&name, sizes); }
