// What every check of the kernels shares: buffers with guarded ends, launches in two orders, comparison with float64.
#pragma once
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "card.h"
#include "device.h"
#include "products.h"

namespace full {
#include "../src/kernels.cu"
#include "../src/attention.cu"
#include "../src/pictures.cu"
}
#define TF32
namespace tf32 {
#include "../src/kernels.cu"
#include "../src/attention.cu"
#include "../src/pictures.cu"
}
#undef TF32
#define HALF
namespace half {
#include "../src/kernels.cu"
#include "../src/attention.cu"
#include "../src/pictures.cu"
}

// The kernels of one precision, by name.
struct Full {
    typedef float In;
    static constexpr const char* precision = "float";
    static constexpr double rounding = 0.0, smallest = 0.0;
    static constexpr bool tensor = false;
#define ENTRY(name) static constexpr auto name = full::name;
#include "kernels.list"
#undef ENTRY
};
struct Tensors {
    typedef float In;
    static constexpr const char* precision = "tf32";
    static constexpr double rounding = 0.0, smallest = 0.0;
    static constexpr bool tensor = true;
#define ENTRY(name) static constexpr auto name = tf32::name;
#include "kernels.list"
#undef ENTRY
};
struct Halves {
    typedef Half In;
    static constexpr const char* precision = "half";
    static constexpr double rounding = 4.9e-4, smallest = 6.0e-8;     // half a step of 11 bits; the smallest number
    static constexpr bool tensor = true;
#define ENTRY(name) static constexpr auto name = half::name;
#include "kernels.list"
#undef ENTRY
};

typedef std::vector<double> Doubles;

// ---- Numbers ----

inline uint64_t random_state = 1;
inline double uniform() {
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double)(random_state >> 11) / 9007199254740992.0;
}
inline int below(int limit) { return (int)(uniform() * limit); }
inline double normal() {
    double sum = 0.0;
    for (int i = 0; i < 12; i++) sum += uniform();
    return sum - 6.0;
}

// ---- Buffers on the card: NaN until written, ends guarded ----

template <class T> struct Buffer {
    size_t count;
    T* at;
    explicit Buffer(size_t count) : count(count), at((T*)card::allocate(std::max<size_t>(count, 1) * sizeof(T))) {}
    explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) { std::copy(values.begin(), values.end(), at); }
    Buffer(const Buffer&) = delete;
    ~Buffer() { card::release((uintptr_t)at); }
    std::vector<double> values() const { return std::vector<double>(at, at + count); }
};

// Numbers as the kernels get them: what float (or In) holds of normal ones.
template <class T> std::vector<T> normals(size_t count, double spread = 1.0, double middle = 0.0) {
    std::vector<T> values(count);
    for (T& value : values) value = (T)(middle + spread * normal());
    return values;
}

// ---- Launches ----

inline unsigned up(long long count, int by) { return (unsigned)((count + by - 1) / by); }

// Runs a kernel, then once more from the same memory with threads in the opposite order: a race gives other bits.
inline void launch(const char* name, dim3 grid, dim3 block, size_t shared, const std::function<void()>& thread) {
    auto memory = [] {
        std::vector<std::string> all;
        for (auto& [at, bytes] : card::live) all.emplace_back((const char*)at, bytes);
        return all;
    };
    auto before = memory();
    emulator::prepare(name, grid, block, shared).backwards = true;
    emulator::run(name, grid, block, shared, thread);
    auto backwards = memory();
    size_t i = 0;
    for (auto& [at, bytes] : card::live) memcpy((void*)at, before[i++].data(), bytes);
    emulator::machine->backwards = false;
    emulator::run(name, grid, block, shared, thread);
    if (memory() != backwards) card::fail(std::string(name) + " gives other bits when its threads start from the last");
    card::check_all_guards();
}

// ---- Checks ----

inline int checks = 0, misses = 0;

// Each number must be within `bound` of the sum of absolute values that made it; `rounding` is what storing it may lose.
inline void check(const std::string& what, const Doubles& got, const Doubles& want, const Doubles& sizes, double bound,
                  double rounding = 0.0, double smallest = 0.0) {
    double worst = 0.0;
    bool bad = got.size() != want.size() || want.size() != sizes.size();
    for (size_t i = 0; !bad && i < got.size(); i++) {
        double away = std::max(0.0, fabs(got[i] - want[i]) - smallest - rounding * fabs(want[i]));
        double error = away == 0.0 ? 0.0 : away / (sizes[i] + 1e-30);
        if (!(error <= bound)) bad = true;
        if (!(error <= worst)) worst = error;
    }
    checks++;
    misses += bad;
    printf("%s %-78s worst %.1e of %.0e\n", bad ? "MISS" : "ok  ", what.c_str(), worst, bound);
}

// Numbers of `In`: stored with its rounding.
template <class K>
void check_in(const std::string& what, const Doubles& got, const Doubles& want, const Doubles& sizes, double bound) {
    check(what, got, want, sizes, bound, K::rounding, K::smallest);
}

inline Doubles absolute(const Doubles& values) {
    Doubles sizes(values);
    for (double& size : sizes) size = fabs(size);
    return sizes;
}

// What must be equal, or off by float32's rounding of a few operations.
template <class K> std::string label(const char* kernel, const std::string& shape) {
    return std::string(kernel) + " " + K::precision + " " + shape;
}
inline std::string text(std::initializer_list<std::pair<const char*, long long>> fields) {
    std::string all;
    for (auto& [name, value] : fields) all += (all.empty() ? "" : " ") + std::string(name) + " " + std::to_string(value);
    return all;
}
