// Enough of CUDA to run kernels.cu on a CPU: one fiber for each thread, all CTAs of a launch resident, several schedules.
//
// Fibers change places at barriers, warp operations and in spin loops only. An error (a barrier that threads reach at
// different lines, a thread that leaves while others wait, a deadlock) ends the launch with a message.
#pragma once
#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define ILLUME_CPU 1
#define DEVICE inline
#define KERNEL(max_threads) extern "C" void
#define DYNAMIC_SHARED(name) unsigned char* name = shim::now->block->shared

namespace shim {

struct Dim {
    unsigned x, y, z;
};
enum State { RUN, SPIN, WAIT_BLOCK, WAIT_CLUSTER, WAIT_WARP, DONE };

struct Warp {
    unsigned arrived = 0;
    std::uint64_t slot[2][32];
};

struct Block {
    Dim index;
    unsigned first_of_cluster = 0, arrived = 0;
    unsigned char* shared = nullptr;
    std::vector<Warp> warps;
};

struct Fiber {
    Dim thread;
    Block* block;
    Warp* warp;
    unsigned block_number, lane, warp_operations, line;
    State state;
#if defined(__x86_64__)
    void* stack_pointer;
#else
    ucontext_t context;
#endif
};

struct Launch {
    Dim grid, block;
    unsigned cluster;
    std::vector<Block> blocks;
    std::vector<Fiber> fibers;
    std::vector<unsigned> cluster_arrived;
    std::string error;
    void (*kernel)(void**);
    void** arguments;
};

inline Launch* launch = nullptr;
inline Fiber* now = nullptr;
constexpr std::size_t STACK = 64 * 1024;

#if defined(__x86_64__)
inline void* scheduler_stack = nullptr;
extern "C" void illume_shim_switch(void** save, void* load);
asm(R"(
.text
.globl illume_shim_switch
.type illume_shim_switch, @function
illume_shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
inline void yield() { illume_shim_switch(&now->stack_pointer, scheduler_stack); }
inline void enter(Fiber& fiber) {
    now = &fiber;
    illume_shim_switch(&scheduler_stack, fiber.stack_pointer);
}
#else
inline ucontext_t scheduler_context;
inline void yield() { swapcontext(&now->context, &scheduler_context); }
inline void enter(Fiber& fiber) {
    now = &fiber;
    swapcontext(&scheduler_context, &fiber.context);
}
#endif

inline void body() {
    launch->kernel(launch->arguments);
    now->state = DONE;
    yield();
    std::abort();
}

inline void prepare(Fiber& fiber, unsigned char* stack) {
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(stack + STACK);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&body);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = STACK;
    makecontext(&fiber.context, &body, 0);
#endif
}

inline std::string place(const Fiber& f) {
    return "block " + std::to_string(f.block_number) + " thread " + std::to_string(f.thread.x) + " at line " +
           std::to_string(f.line);
}

inline void fail(const std::string& what) {
    if (launch->error.empty()) launch->error = what + ": " + place(*now);
}

// Waits with the fibers [first, last) for all of them, `arrived` being how many have come.
inline void rendezvous(State waiting, unsigned& arrived, unsigned first, unsigned last, unsigned line) {
    now->line = line;
    for (unsigned i = first; i < last; ++i) {
        const Fiber& other = launch->fibers[i];
        if (other.state == DONE) fail("barrier with a thread that has left");
        if (other.state == waiting && other.line != line) fail("divergent barrier, " + place(other));
    }
    now->state = waiting;
    if (++arrived == last - first) {
        arrived = 0;
        for (unsigned i = first; i < last; ++i) launch->fibers[i].state = RUN;
    }
    yield();
}

inline void block_barrier(unsigned line) {
    const unsigned first = now->block_number * launch->block.x;
    rendezvous(WAIT_BLOCK, now->block->arrived, first, first + launch->block.x, line);
}

inline void cluster_barrier(unsigned line) {
    const unsigned first = now->block->first_of_cluster;
    rendezvous(WAIT_CLUSTER, launch->cluster_arrived[first / launch->cluster], first * launch->block.x,
               (first + launch->cluster) * launch->block.x, line);
}

// The values of all lanes of the warp.
template <class T>
inline const std::uint64_t* exchange(T value, unsigned line) {
    std::uint64_t* slots = now->warp->slot[now->warp_operations++ % 2];
    slots[now->lane] = 0;
    std::memcpy(&slots[now->lane], &value, sizeof value);
    const unsigned first = now->block_number * launch->block.x + now->thread.x - now->lane;
    rendezvous(WAIT_WARP, now->warp->arrived, first, first + 32, line);
    return slots;
}

template <class T>
inline T value_of(std::uint64_t slot) {
    T value;
    std::memcpy(&value, &slot, sizeof value);
    return value;
}

struct Random {
    std::uint64_t state;
    unsigned below(unsigned n) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<unsigned>((state >> 33) % n);
    }
};

// Runs fibers [first, last) until each waits, spins or has left; whether one did more than spin.
inline bool run_all(unsigned first, unsigned last, bool backwards) {
    bool moved = false, again = true;
    while (again && launch->error.empty()) {
        again = false;
        for (unsigned k = first; k < last && launch->error.empty(); ++k) {
            Fiber& fiber = launch->fibers[backwards ? last - 1 - (k - first) : k];
            if (fiber.state != RUN) continue;
            enter(fiber);
            if (fiber.state != SPIN) moved = again = true;
        }
    }
    return moved;
}

enum Schedule { FORWARD, REVERSE, RANDOM, BLOCK_FIRST, BLOCK_LAST, WARP_GREEDY };

inline void schedule(unsigned kind, std::uint64_t seed) {
    const unsigned count = static_cast<unsigned>(launch->fibers.size()), threads = launch->block.x;
    const unsigned num_blocks = count / threads, num_warps = count / 32;
    Random random{seed};
    std::vector<unsigned> order(kind == RANDOM ? count : num_warps);
    for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
    for (unsigned idle = 0; launch->error.empty();) {
        unsigned done = 0;
        for (Fiber& fiber : launch->fibers) {
            if (fiber.state == SPIN) fiber.state = RUN;
            done += fiber.state == DONE;
        }
        if (done == count) return;
        bool moved = false;
        if (kind == BLOCK_FIRST || kind == BLOCK_LAST) {
            for (unsigned b = 0; b < num_blocks && !moved; ++b) {
                const unsigned block = kind == BLOCK_FIRST ? b : num_blocks - 1 - b;
                moved = run_all(block * threads, (block + 1) * threads, kind == BLOCK_LAST);
            }
        } else if (kind == FORWARD || kind == REVERSE) {
            for (unsigned i = 0; i < count; ++i) {
                const unsigned k = kind == FORWARD ? i : count - 1 - i;
                moved |= run_all(k, k + 1, false);
            }
        } else {
            for (unsigned i = static_cast<unsigned>(order.size()); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
            const unsigned unit = kind == RANDOM ? 1 : 32;
            for (const unsigned o : order) moved |= run_all(o * unit, (o + 1) * unit, false);
        }
        idle = moved ? 0 : idle + 1;
        if (idle > 4) {
            for (Fiber& fiber : launch->fibers) {
                if (fiber.state != DONE) now = &fiber;
            }
            fail("deadlock");
        }
    }
}

inline std::string run(void (*kernel)(void**), void** arguments, Dim grid, unsigned threads, unsigned cluster,
                       unsigned shared_bytes, unsigned kind, std::uint64_t seed) {
    Launch own{};
    launch = &own;
    own.grid = grid;
    own.block = {threads, 1, 1};
    own.cluster = cluster;
    own.kernel = kernel;
    own.arguments = arguments;
    const unsigned num_blocks = grid.x * grid.y * grid.z, count = num_blocks * threads;
    own.blocks.resize(num_blocks);
    own.fibers.resize(count);
    own.cluster_arrived.assign(num_blocks / cluster + 1, 0);
    static unsigned char* stacks = nullptr;
    static unsigned num_stacks = 0;
    if (count > num_stacks) {
        if (stacks != nullptr) munmap(stacks, STACK * num_stacks);
        num_stacks = count;
        stacks = static_cast<unsigned char*>(mmap(nullptr, STACK * count, PROT_READ | PROT_WRITE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (stacks == MAP_FAILED) return "no memory for stacks";
    }
    for (unsigned b = 0; b < num_blocks; ++b) {
        Block& block = own.blocks[b];
        block.index = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        block.first_of_cluster = b / cluster * cluster;
        block.shared = static_cast<unsigned char*>(std::malloc(shared_bytes));
        std::memset(block.shared, 0xA5, shared_bytes);
        block.warps.resize(threads / 32);
        for (unsigned t = 0; t < threads; ++t) {
            Fiber& fiber = own.fibers[b * threads + t];
            fiber = Fiber{};
            fiber.thread = {t, 0, 0};
            fiber.block = &block;
            fiber.warp = &block.warps[t / 32];
            fiber.block_number = b;
            fiber.lane = t % 32;
            fiber.state = RUN;
            prepare(fiber, stacks + STACK * (b * threads + t));
        }
    }
    schedule(kind, seed);
    for (Block& block : own.blocks) std::free(block.shared);
    launch = nullptr;
    return own.error;
}

}  // namespace shim

#define threadIdx (shim::now->thread)
#define blockIdx (shim::now->block->index)
#define blockDim (shim::launch->block)
#define gridDim (shim::launch->grid)
#define __syncthreads() shim::block_barrier(__LINE__)
#define cluster_sync() shim::cluster_barrier(__LINE__)
#define __shfl_xor_sync(mask, value, d) shim_shuffle_xor(value, d, __LINE__)
#define __shfl_up_sync(mask, value, d) shim_shuffle_up(value, d, __LINE__)
#define __shfl_sync(mask, value, lane) shim_shuffle(value, lane, __LINE__)
#define __ballot_sync(mask, value) shim_ballot(value, __LINE__)

template <class T>
inline T shim_shuffle_xor(T value, unsigned d, unsigned line) {
    return shim::value_of<T>(shim::exchange(value, line)[shim::now->lane ^ d]);
}
template <class T>
inline T shim_shuffle_up(T value, unsigned d, unsigned line) {
    const std::uint64_t* slots = shim::exchange(value, line);
    return shim::now->lane >= d ? shim::value_of<T>(slots[shim::now->lane - d]) : value;
}
template <class T>
inline T shim_shuffle(T value, unsigned lane, unsigned line) {
    return shim::value_of<T>(shim::exchange(value, line)[lane]);
}
inline unsigned shim_ballot(bool value, unsigned line) {
    const std::uint64_t* slots = shim::exchange(static_cast<unsigned>(value), line);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(slots[lane] & 1) << lane;
    return bits;
}

inline void pause_in_spin() {
    shim::now->state = shim::SPIN;
    shim::yield();
}
inline void __threadfence() {}
inline unsigned cluster_rank() { return shim::now->block->index.x % shim::launch->cluster; }
template <class T>
inline T* in_rank(T* own, unsigned rank) {
    const auto offset = reinterpret_cast<unsigned char*>(own) - shim::now->block->shared;
    return reinterpret_cast<T*>(shim::launch->blocks[shim::now->block->first_of_cluster + rank].shared + offset);
}
template <class T>
inline T atomicAdd(T* address, T value) {
    const T before = *address;
    *address = before + value;
    return before;
}
template <class T>
inline T atomicMax(T* address, T value) {
    const T before = *address;
    if (value > before) *address = value;
    return before;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __popc(unsigned x) { return static_cast<unsigned>(__builtin_popcount(x)); }

inline float float_from_half(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, mantissa = bits & 1023u;
    if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | mantissa << 13);
    const float x = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                  : std::ldexp(static_cast<float>(mantissa | 1024u), static_cast<int>(exponent) - 25);
    return sign != 0 ? -x : x;
}
inline unsigned short half_from_float(float x) {
    const unsigned sign = __float_as_uint(x) >> 16 & 0x8000u;
    const float a = std::fabs(x);
    if (std::isnan(x)) return static_cast<unsigned short>(sign | 0x7E00u);
    if (a >= 65520.0f) return static_cast<unsigned short>(sign | 0x7C00u);
    if (a < 0x1p-14f) return static_cast<unsigned short>(sign | static_cast<unsigned>(std::nearbyint(a * 0x1p24f)));
    int exponent;
    const float fraction = std::frexp(a, &exponent);  // in [1/2, 1)
    const unsigned rounded = static_cast<unsigned>(std::nearbyint(std::ldexp(fraction, 11)));  // 1024 to 2048
    return static_cast<unsigned short>(sign | ((static_cast<unsigned>(exponent + 14) << 10) + (rounded - 1024u)));
}
