// The null driver's card: memory of the host with guarded ends, counters, streams that run at once.
#pragma once
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace card {

typedef unsigned long long Count;

struct Counters {
    std::atomic<Count> launches{0}, products{0}, graphs{0}, copies_up{0}, copies_down{0}, copies_within{0}, bytes_up{0},
        bytes_down{0}, fills{0}, allocations{0}, waits{0}, live_bytes{0}, peak_bytes{0};
    std::atomic<double> flops{0};
};
inline Counters counters;
// 1: kernels and products are counted only, and memory has small numbers.
inline std::atomic<int> skip{getenv("NULL_DRIVER_SKIP") && strcmp(getenv("NULL_DRIVER_SKIP"), "0") != 0};

inline Count size() {
    const char* given = getenv("NULL_DRIVER_MEMORY");
    return given ? strtoull(given, nullptr, 10) : 8ULL << 30;
}

[[noreturn]] inline void fail(const std::string& what) {
    fprintf(stderr, "null driver: %s\n", what.c_str());
    abort();
}

// ---- Memory ----

constexpr size_t GUARD = 4096;
constexpr int FRESH = 0xff;                               // NaN in every float type: what is read unwritten shows
constexpr int SMALL = 0x3c;                               // 0.01 in float32, 1.06 in half: losses of what was only counted are finite
// At both ends: a NaN too, but a signalling one, which no sum gives back as it was.
constexpr uint32_t END = 0x7f9f7d01;

inline std::mutex lock;
inline std::map<uintptr_t, size_t> live;

inline unsigned char end_byte(uintptr_t at) { return END >> 8 * (at % 4) & 0xff; }

inline void write_guards(uintptr_t at, size_t bytes) {
    for (size_t i = 0; i < GUARD; i++) {
        *(unsigned char*)(at - GUARD + i) = end_byte(at - GUARD + i);
        *(unsigned char*)(at + bytes + i) = end_byte(at + bytes + i);
    }
}

inline void check_guards(uintptr_t at, size_t bytes) {
    auto wrote = [&](size_t away, const char* where) {
        fail("something wrote " + std::to_string(away) + where + std::to_string(bytes) + " bytes");
    };
    for (size_t i = 0; i < GUARD; i++) {
        if (*(unsigned char*)(at - GUARD + i) != end_byte(at - GUARD + i)) wrote(GUARD - i, " bytes before an allocation of ");
        if (*(unsigned char*)(at + bytes + i) != end_byte(at + bytes + i)) wrote(i, " bytes behind an allocation of ");
    }
}

inline void check_all_guards() {
    std::lock_guard<std::mutex> held(lock);
    for (auto& [at, bytes] : live) check_guards(at, bytes);
}

// Null where the card is full.
inline void* allocate(size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    if (counters.live_bytes + bytes > size()) return nullptr;
    size_t all = (bytes + 2 * GUARD + 255) / 256 * 256;
    char* memory = (char*)mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    memset(memory, skip ? SMALL : FRESH, all);
    write_guards((uintptr_t)memory + GUARD, bytes);
    live[(uintptr_t)memory + GUARD] = bytes;
    counters.allocations++;
    counters.live_bytes += bytes;
    if (counters.live_bytes > counters.peak_bytes) counters.peak_bytes = counters.live_bytes.load();
    return memory + GUARD;
}

inline void release(uintptr_t at) {
    std::lock_guard<std::mutex> held(lock);
    auto found = live.find(at);
    if (found == live.end()) fail("freed what is not an allocation");
    check_guards(at, found->second);
    munmap((void*)(at - GUARD), (found->second + 2 * GUARD + 255) / 256 * 256);
    counters.live_bytes -= found->second;
    live.erase(found);
}

// Aborts unless all of `bytes` at `at` are inside one allocation.
inline void check(const void* at, size_t bytes, const std::string& what) {
    std::lock_guard<std::mutex> held(lock);
    auto next = live.upper_bound((uintptr_t)at);
    if (next != live.begin()) {
        auto& [start, held_bytes] = *std::prev(next);
        if ((uintptr_t)at + bytes <= start + held_bytes && (uintptr_t)at < start + held_bytes + (bytes == 0)) return;
    }
    char text[64];
    snprintf(text, sizeof text, ": %zu bytes at %p are not", bytes, at);
    fail(what + text + " inside an allocation");
}

// ---- Streams and graphs: work is done at once, or kept while a stream is captured ----

struct Graph { std::vector<std::function<void()>> works; };
struct Stream { Graph* captured = nullptr; };

template <class Work> void submit(void* stream, Work work) {
    // 0, 1 and 2 are CUDA's own streams.
    if ((uintptr_t)stream > 2 && ((Stream*)stream)->captured) ((Stream*)stream)->captured->works.push_back(work);
    else work();
}

// What the null NVRTC makes of a program, for the null driver to load.
constexpr char FULL_IMAGE[] = "// null driver: full";
constexpr char TF32_IMAGE[] = "// null driver: tf32";
constexpr char HALF_IMAGE[] = "// null driver: half";

}  // namespace card

#define API extern "C" __attribute__((visibility("default"))) int
