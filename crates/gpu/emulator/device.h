// CUDA's threads on one thread of the host, so that g++ compiles the kernels as they are.
//
// Each CUDA thread of a block runs on a fiber's stack. Threads run one after the other on the same stack as long as none
// waits; a thread that waits (at a barrier or a shuffle) keeps its stack, and the next thread starts on another. A warp's
// operation waits for its 32 lanes only. What runs between two waits runs to its end: a kernel that reads what another lane
// wrote without a barrier between reads what was there before, which in shared memory is NaN.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tf32.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(16) float4 { float x, y, z, w; };
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {

constexpr size_t STACK = 1 << 16, SHARED_LIMIT = 232448, TABLE_BYTES = 1 << 14, GUARD = 256;
constexpr int MOST_THREADS = 1024, WARPS = MOST_THREADS / 32;

// Saves the registers a function call must keep on the running stack, its end in *from, and goes on on the stack at `to`.
#if defined(__x86_64__)
extern "C" void emulator_switch(void** from, void* to) __attribute__((visibility("hidden")));
asm(R"(
    .text
    .p2align 4
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
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
    .size emulator_switch, .-emulator_switch
)");
constexpr int SAVED = 8, RETURN_AT = 6;       // words below a new stack's top: six registers, the address, one for alignment
#elif defined(__aarch64__)
extern "C" void emulator_switch(void** from, void* to) __attribute__((visibility("hidden")));
asm(R"(
    .text
    .p2align 4
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, %function
emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulator_switch, .-emulator_switch
)");
constexpr int SAVED = 20, RETURN_AT = 11;
#else
struct Context { ucontext_t registers; };
static inline void emulator_switch(void** from, void* to) {
    Context* own = (Context*)*from;
    swapcontext(&own->registers, &((Context*)to)->registers);
}
#endif

// One waits here until `size` have come.
struct Gate {
    int size = 0, arrived = 0, kind = 0;
    int waiting[MOST_THREADS];
};

struct Fiber {
    void* stack = nullptr;                    // where it goes on
    dim3 thread;                              // what it runs
    int number = 0;
    char* low = nullptr;                      // its memory
};

// A block in flight. One for each thread of the host that launches.
struct Machine {
    const char* kernel = "";
    dim3 grid, block, at, thread;
    int threads = 0, next = 0, done = 0, number = 0, fiber = 0;
    bool table_used = false;                  // since the block began: NaN before
    bool backwards = false;                   // threads start from the last: races show as different numbers
    void (*body)(const void*) = nullptr;
    const void* context = nullptr;
    void* home = nullptr;
    std::vector<Fiber> fibers;
    std::vector<int> idle;
    int ready[2 * MOST_THREADS], first = 0, last = 0;
    Gate block_gate, warp_gates[WARPS];
    float lanes[2][MOST_THREADS], left[2][MOST_THREADS][4], right[2][MOST_THREADS][2];
    unsigned char turns[MOST_THREADS];
    char *shared = nullptr, *table = nullptr; // not thread_local arrays: a library opened late has no room for them

    [[noreturn]] void fail(const char* what) {
        fprintf(stderr, "emulator: kernel %s, block (%u, %u, %u), thread (%u, %u): %s\n", kernel, at.x, at.y, at.z, thread.x,
                thread.y, what);
        abort();
    }
    void start(int started) {
        int i = backwards ? threads - 1 - started : started;
        number = i;
        thread = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    }
    int new_fiber();
    void leave();
    void wait(Gate& gate, int kind);
    ~Machine() {
        for (Fiber& fiber : fibers) munmap(fiber.low, STACK);
        free(shared);
        free(table);
    }
};

static thread_local Machine* machine __attribute__((tls_model("initial-exec"))) = nullptr;
// Frees it when the thread of the host ends.
struct Owner {
    ~Owner() { delete machine; }
};
static thread_local Owner owner;

// What every fiber runs: threads that have not started, one after the other.
static void live() {
    Machine& m = *machine;
    for (;;) {
        while (m.next < m.threads) {
            m.start(m.next++);
            m.body(m.context);
            m.done++;
        }
        m.idle.push_back(m.fiber);
        m.leave();
    }
}

inline int Machine::new_fiber() {
    char* low = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (low == MAP_FAILED) fail("no memory for a stack");
    mprotect(low, 4096, PROT_NONE);
    Fiber fiber;
    fiber.low = low;
#if defined(__x86_64__) || defined(__aarch64__)
    void** words = (void**)(low + STACK) - SAVED;
    memset(words, 0, SAVED * sizeof(void*));
    words[RETURN_AT] = (void*)live;
    fiber.stack = words;
#else
    Context* context = new Context;
    getcontext(&context->registers);
    context->registers.uc_stack.ss_sp = low;
    context->registers.uc_stack.ss_size = STACK;
    makecontext(&context->registers, live, 0);
    fiber.stack = context;
#endif
    fibers.push_back(fiber);
    return (int)fibers.size() - 1;
}

// Goes on with a thread that may run, with one that has not started, or, when all are done, with `run`.
inline void Machine::leave() {
    int own = fiber;
    void* to;
    if (first != last) {
        fiber = ready[first];
        first = (first + 1) % (2 * MOST_THREADS);
        to = fibers[fiber].stack;
    } else if (next < threads) {
        if (idle.empty()) idle.push_back(new_fiber());
        fiber = idle.back();
        idle.pop_back();
        to = fibers[fiber].stack;
    } else if (done == threads) {
        to = home;
    } else {
        fail("waits at a barrier or shuffle that the others never reach");
    }
    Fiber& mine = fibers[own];
    mine.thread = thread;
    mine.number = number;
    emulator_switch(&mine.stack, to);
    thread = fibers[own].thread;
    number = fibers[own].number;
}

inline void Machine::wait(Gate& gate, int kind) {
    if (gate.arrived == 0) gate.kind = kind;
    else if (gate.kind != kind) fail("waits at another operation than the others");
    if (gate.arrived + 1 == gate.size) {
        for (int i = 0; i < gate.arrived; i++) {
            ready[last] = gate.waiting[i];
            last = (last + 1) % (2 * MOST_THREADS);
        }
        gate.arrived = 0;
        return;
    }
    gate.waiting[gate.arrived++] = fiber;
    leave();
}

inline float* shared_memory() { return (float*)machine->shared; }
template <int rows> float (*table_memory())[32] {
    static_assert(rows * 128 <= TABLE_BYTES, "a larger table needs more room");
    Machine& m = *machine;
    if (!m.table_used) memset(m.table, 0xff, rows * 128);
    m.table_used = true;
    return (float (*)[32])m.table;
}

enum { BLOCK_BARRIER, WARP_BARRIER, SHUFFLE, MULTIPLY };

static inline Machine& prepare(const char* kernel, dim3 grid, dim3 block, size_t shared) {
    if (!machine) {
        machine = new Machine;
        (void)&owner;                         // made by being named
        machine->shared = (char*)aligned_alloc(256, SHARED_LIMIT + GUARD);
        machine->table = (char*)aligned_alloc(256, TABLE_BYTES);
        machine->fibers.reserve(MOST_THREADS);
        machine->backwards = getenv("EMULATOR_BACKWARDS") != nullptr;
    }
    Machine& m = *machine;
    m.kernel = kernel;
    m.grid = grid;
    m.block = block;
    m.threads = block.x * block.y * block.z;
    if (m.threads < 1 || m.threads > MOST_THREADS || m.threads % 32) m.fail("the block is not 1 to 32 whole warps");
    if (shared > SHARED_LIMIT) m.fail("more shared memory than a block can have");
    m.block_gate.size = m.threads;
    for (Gate& gate : m.warp_gates) gate.size = 32;
    return m;
}

// Runs `thread()` for every thread of the grid, block after block.
template <class Thread> void run(const char* kernel, dim3 grid, dim3 block, size_t shared, const Thread& thread) {
    Machine& m = prepare(kernel, grid, block, shared);
    m.body = [](const void* context) { (*(const Thread*)context)(); };
    m.context = &thread;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                m.at = {x, y, z};
                m.next = m.done = 0;
                memset(m.turns, 0, m.threads);
                memset(m.shared, 0xff, shared + GUARD);
                m.table_used = false;
                if (m.idle.empty()) m.idle.push_back(m.new_fiber());
                m.fiber = m.idle.back();
                m.idle.pop_back();
#if !defined(__x86_64__) && !defined(__aarch64__)
                static thread_local Context context;
                m.home = &context;
#endif
                emulator_switch(&m.home, m.fibers[m.fiber].stack);
                for (size_t i = 0; i < GUARD; i++)
                    if ((unsigned char)m.shared[shared + i] != 0xff) m.fail("wrote behind its shared memory");
            }
}

}  // namespace emulator

#define threadIdx (emulator::machine->thread)
#define blockIdx (emulator::machine->at)
#define blockDim (emulator::machine->block)
#define gridDim (emulator::machine->grid)

static inline void __syncthreads() { emulator::machine->wait(emulator::machine->block_gate, emulator::BLOCK_BARRIER); }
static inline void __syncwarp() {
    emulator::Machine& m = *emulator::machine;
    m.wait(m.warp_gates[m.number / 32], emulator::WARP_BARRIER);
}
static inline float __shfl_xor_sync(unsigned, float value, int mask) {
    emulator::Machine& m = *emulator::machine;
    int own = m.number, turn = m.turns[own]++ & 1;        // two banks: a lane may be one shuffle ahead of another
    m.lanes[turn][own] = value;
    m.wait(m.warp_gates[own / 32], emulator::SHUFFLE);
    return m.lanes[turn][own ^ mask];
}

// Tensor cores' m16n8k8 on tf32 numbers, laid out over a warp's lanes as PTX says (see pictures.cu).
static inline void warp_multiply(float* c, const float* a, const float* b) {
    emulator::Machine& m = *emulator::machine;
    int lane = m.number % 32, first = m.number - lane, turn = m.turns[m.number]++ & 1;
    memcpy(m.left[turn][m.number], a, sizeof m.left[0][0]);
    memcpy(m.right[turn][m.number], b, sizeof m.right[0][0]);
    m.wait(m.warp_gates[m.number / 32], emulator::MULTIPLY);
    for (int e = 0; e < 4; e++) {
        int row = lane / 4, column = lane % 4 * 2 + e % 2;
        float sum = 0.0f;
        for (int k = 0; k < 8; k++)
            sum += m.left[turn][first + row * 4 + k % 4][k / 4 * 2 + e / 2] * m.right[turn][first + column * 4 + k % 4][k / 4];
        c[e] += sum;
    }
}

#define EMULATED
#define KERNEL static void
#define SHARED(name) float* name = emulator::shared_memory()
#define __device__
#define TABLE(name, rows) float (*name)[32] = emulator::table_memory<rows>()
typedef _Float16 Half;
static inline float wide(Half h) { return h; }
static inline Half narrow(float f) { return (Half)f; }
using std::max;
using std::min;
