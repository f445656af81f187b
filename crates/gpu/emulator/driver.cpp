// A CUDA driver for machines without a GPU (NVRTC and cuBLASLt are in libraries.cpp): kernels run on the emulator, products
// as loops, memory is the host's. It checks what a card would not say (reads of unwritten memory, stray pointers, broken
// ends), and counts.
//
// Environment: NULL_DRIVER_SKIP=1 counts without running; NULL_DRIVER_MEMORY=bytes is the card's size (8 GiB);
// NULL_DRIVER_REPORT=file appends a line of JSON at exit. `null_*` below read and set the same from a test.
#include <chrono>
#include <iterator>
#include <tuple>
#include <utility>

#include "card.h"
#include "device.h"

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

using card::counters;

namespace {

enum Result { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200, NOT_FOUND = 500 };
constexpr size_t DEFAULT_SHARED = 49152;

// ---- Kernels by name ----

struct Kernel {
    const char* name;
    // Unpacks the parameters, checks the pointers among them, and gives the work to the stream.
    void (*launch)(const Kernel&, dim3 grid, dim3 block, size_t shared, void* stream, void** parameters);
    std::atomic<card::Count>* count;
};

template <class T> void check_parameter(const Kernel& kernel, size_t index, T value) {
    if constexpr (std::is_pointer_v<T>) {
        if (!value) return;
        std::string what = std::string("kernel ") + kernel.name + ", parameter " + std::to_string(index);
        card::check((const void*)value, 0, what);
        if ((uintptr_t)value % alignof(std::remove_pointer_t<T>)) card::fail(what + " is not aligned");
    }
}

template <auto function, class... P, size_t... I>
void launch_as(void (*)(P...), const Kernel& kernel, dim3 grid, dim3 block, size_t shared, void* stream, void** parameters,
               std::index_sequence<I...>) {
    std::tuple<P...> values(*(P*)parameters[I]...);
    card::submit(stream, [=, &kernel] {
        counters.launches++;
        ++*kernel.count;
        (check_parameter(kernel, I, std::get<I>(values)), ...);
        if (!card::skip) emulator::run(kernel.name, grid, block, shared, [&values] { function(std::get<I>(values)...); });
    });
}

template <class... P> std::index_sequence_for<P...> indices(void (*)(P...));

template <auto function>
void launch(const Kernel& kernel, dim3 grid, dim3 block, size_t shared, void* stream, void** parameters) {
    launch_as<function>(function, kernel, grid, block, shared, stream, parameters, decltype(indices(function))());
}

// `kernels.list` has ENTRY(name) for each KERNEL of the sources: the build makes it, so that none can be missing.
#define ENTRY(name) static std::atomic<card::Count> count_of_##name{0};
#include "kernels.list"
#undef ENTRY
#define ENTRY(name) {#name, launch<full::name>, &count_of_##name},
const Kernel FULL[] = {
#include "kernels.list"
};
#undef ENTRY
#define ENTRY(name) {#name, launch<tf32::name>, &count_of_##name},
const Kernel TENSORS[] = {
#include "kernels.list"
};
#undef ENTRY
#define ENTRY(name) {#name, launch<half::name>, &count_of_##name},
const Kernel HALVES[] = {
#include "kernels.list"
};
#undef ENTRY

// The kernels in one of the precisions.
struct Module {
    const Kernel* kernels;
    size_t count;
};
struct Function {
    const Kernel* kernel;
    size_t shared_limit = DEFAULT_SHARED;
};

struct Event { std::chrono::steady_clock::time_point at; };

// ---- Report ----

std::string report() {
    card::check_all_guards();
    std::string line = "{";
    auto number = [&](const char* name, double value) {
        char text[96];
        snprintf(text, sizeof text, "%s\"%s\": %.15g", line.size() > 1 ? ", " : "", name, value);
        line += text;
    };
    number("launches", counters.launches);
    number("products", counters.products);
    number("graphs", counters.graphs);
    number("flops", counters.flops);
    number("copies_up", counters.copies_up);
    number("copies_down", counters.copies_down);
    number("copies_within", counters.copies_within);
    number("bytes_up", counters.bytes_up);
    number("bytes_down", counters.bytes_down);
    number("fills", counters.fills);
    number("waits", counters.waits);
    number("allocations", counters.allocations);
    number("live_bytes", counters.live_bytes);
    number("peak_bytes", counters.peak_bytes);
    for (const Kernel& kernel : FULL) number(kernel.name, *kernel.count);
    return line + "}\n";
}

struct AtExit {
    ~AtExit() {
        const char* path = getenv("NULL_DRIVER_REPORT");
        FILE* file = path ? fopen(path, "a") : nullptr;
        if (!file) return;
        fputs(report().c_str(), file);
        fclose(file);
    }
} at_exit;

void copied(void* to, const void* from, size_t bytes) {
    if (bytes) memmove(to, from, bytes);
}

int copy_up(uintptr_t to, const void* from, size_t bytes, void* stream) {
    card::submit(stream, [=] {
        card::check((void*)to, bytes, "copy to the card");
        counters.copies_up++;
        counters.bytes_up += bytes;
        copied((void*)to, from, bytes);
    });
    return SUCCESS;
}

int copy_down(void* to, uintptr_t from, size_t bytes, void* stream) {
    card::submit(stream, [=] {
        card::check((void*)from, bytes, "copy from the card");
        counters.copies_down++;
        counters.bytes_down += bytes;
        copied(to, (void*)from, bytes);
    });
    return SUCCESS;
}

int copy_within(uintptr_t to, uintptr_t from, size_t bytes, void* stream) {
    card::submit(stream, [=] {
        card::check((void*)from, bytes, "copy on the card, from");
        card::check((void*)to, bytes, "copy on the card, to");
        counters.copies_within++;
        copied((void*)to, (void*)from, bytes);
    });
    return SUCCESS;
}

template <class T> int fill(uintptr_t to, T value, size_t count, void* stream) {
    card::submit(stream, [=] {
        card::check((void*)to, count * sizeof(T), "fill");
        counters.fills++;
        for (size_t i = 0; i < count; i++) ((T*)to)[i] = value;
    });
    return SUCCESS;
}

}  // namespace

// ---- Counters, for tests ----

#define READ(type, name, value) extern "C" __attribute__((visibility("default"))) type null_##name() { return value; }
READ(unsigned long long, launches, counters.launches)
READ(unsigned long long, products, counters.products)
READ(unsigned long long, graphs, counters.graphs)
READ(unsigned long long, copies_up, counters.copies_up)
READ(unsigned long long, copies_down, counters.copies_down)
READ(unsigned long long, copies_within, counters.copies_within)
READ(unsigned long long, bytes_up, counters.bytes_up)
READ(unsigned long long, bytes_down, counters.bytes_down)
READ(unsigned long long, fills, counters.fills)
READ(unsigned long long, waits, counters.waits)
READ(unsigned long long, allocations, counters.allocations)
READ(unsigned long long, live_bytes, counters.live_bytes)
READ(unsigned long long, peak_bytes, counters.peak_bytes)
READ(double, flops, counters.flops)

extern "C" __attribute__((visibility("default"))) unsigned long long null_launches_of(const char* name) {
    for (const Kernel& kernel : FULL)
        if (!strcmp(kernel.name, name)) return *kernel.count;
    card::fail(std::string("there is no kernel ") + name);
}
extern "C" __attribute__((visibility("default"))) void null_skip(int skip) { card::skip = skip; }
// All counters to zero (the peak to what is held); checks the ends of every allocation.
extern "C" __attribute__((visibility("default"))) void null_reset() {
    card::check_all_guards();
    for (auto* counter : {&counters.launches, &counters.products, &counters.graphs, &counters.copies_up, &counters.copies_down,
                          &counters.copies_within, &counters.bytes_up, &counters.bytes_down, &counters.fills, &counters.waits,
                          &counters.allocations})
        *counter = 0;
    counters.flops = 0;
    counters.peak_bytes = counters.live_bytes.load();
    for (const Kernel& kernel : FULL) *kernel.count = 0;
}

// ---- The driver ----

API cuInit(unsigned) { return SUCCESS; }
API cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
API cuGetErrorName(int error, const char** name) {
    switch (error) {
        case SUCCESS: *name = "CUDA_SUCCESS"; break;
        case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
        case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
        case INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
        case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
        default: *name = "CUDA_ERROR_UNKNOWN";
    }
    return SUCCESS;
}
API cuGetErrorString(int error, const char** text) { return cuGetErrorName(error, text); }
API cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
API cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : INVALID_DEVICE; }
API cuDeviceGetName(char* name, int length, int) { return snprintf(name, length, "null driver (no GPU)"), SUCCESS; }
API cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = card::size(), SUCCESS; }
API cuDeviceGetUuid(char* uuid, int) { return memset(uuid, 0, 16), SUCCESS; }
API cuDeviceGetUuid_v2(char* uuid, int) { return memset(uuid, 0, 16), SUCCESS; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
    static const std::map<int, int> KNOWN = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535},       // threads and blocks
        {8, 49152}, {10, 32}, {16, 132}, {39, 2048}, {75, 9}, {76, 0}, {97, 232448}, {115, 0},   // 97: shared memory on request
    };
    auto found = KNOWN.find(attribute);
    *value = found == KNOWN.end() ? 0 : found->second;
    return SUCCESS;
}
static int context;
API cuDevicePrimaryCtxRetain(void** held, int) { return *held = &context, SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxGetCurrent(void** held) { return *held = &context, SUCCESS; }
API cuCtxSetCurrent(void*) { return SUCCESS; }
API cuCtxGetStreamPriorityRange(int* least, int* most) { return *least = *most = 0, SUCCESS; }
API cuCtxSynchronize() { return counters.waits++, SUCCESS; }

API cuMemGetInfo_v2(size_t* left, size_t* all) {
    *all = card::size();
    *left = *all - counters.live_bytes;
    return SUCCESS;
}
API cuMemAlloc_v2(uintptr_t* at, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    *at = (uintptr_t)card::allocate(bytes);
    return *at ? SUCCESS : OUT_OF_MEMORY;
}
API cuMemFree_v2(uintptr_t at) { return at ? card::release(at) : void(), SUCCESS; }
API cuMemAllocAsync(uintptr_t* at, size_t bytes, void*) { return cuMemAlloc_v2(at, bytes); }
API cuMemFreeAsync(uintptr_t at, void*) { return cuMemFree_v2(at); }
API cuMemAllocHost_v2(void** at, size_t bytes) {
    *at = aligned_alloc(256, (bytes + 255) / 256 * 256);
    return *at ? SUCCESS : OUT_OF_MEMORY;
}
API cuMemHostAlloc(void** at, size_t bytes, unsigned) { return cuMemAllocHost_v2(at, bytes); }
API cuMemFreeHost(void* at) { return free(at), SUCCESS; }
API cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t bytes, void* stream) { return copy_up(to, from, bytes, stream); }
API cuMemcpyHtoD_v2(uintptr_t to, const void* from, size_t bytes) { return copy_up(to, from, bytes, nullptr); }
API cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, void* stream) { return copy_down(to, from, bytes, stream); }
API cuMemcpyDtoH_v2(void* to, uintptr_t from, size_t bytes) { return copy_down(to, from, bytes, nullptr); }
API cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void* stream) {
    return copy_within(to, from, bytes, stream);
}
API cuMemcpyDtoD_v2(uintptr_t to, uintptr_t from, size_t bytes) { return copy_within(to, from, bytes, nullptr); }
API cuMemsetD8Async(uintptr_t to, unsigned char value, size_t count, void* stream) { return fill(to, value, count, stream); }
API cuMemsetD8_v2(uintptr_t to, unsigned char value, size_t count) { return fill(to, value, count, nullptr); }
API cuMemsetD32Async(uintptr_t to, unsigned value, size_t count, void* stream) { return fill(to, value, count, stream); }

API cuStreamCreate(void** stream, unsigned) { return *stream = new card::Stream, SUCCESS; }
API cuStreamCreateWithPriority(void** stream, unsigned, int) { return cuStreamCreate(stream, 0); }
API cuStreamDestroy_v2(void* stream) { return delete (card::Stream*)stream, SUCCESS; }
API cuStreamSynchronize(void*) { return counters.waits++, SUCCESS; }
API cuStreamQuery(void*) { return SUCCESS; }
API cuStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
API cuStreamBeginCapture_v2(void* stream, int) { return ((card::Stream*)stream)->captured = new card::Graph, SUCCESS; }
API cuStreamEndCapture(void* stream, void** graph) {
    *graph = ((card::Stream*)stream)->captured;
    ((card::Stream*)stream)->captured = nullptr;
    return *graph ? SUCCESS : INVALID_VALUE;
}
API cuStreamIsCapturing(void* stream, int* state) {
    return *state = (uintptr_t)stream > 2 && ((card::Stream*)stream)->captured, SUCCESS;
}
API cuGraphInstantiateWithFlags(void** ready, void* graph, unsigned long long) {
    return *ready = new card::Graph(*(card::Graph*)graph), SUCCESS;
}
API cuGraphUpload(void*, void*) { return SUCCESS; }
API cuGraphLaunch(void* graph, void*) {
    counters.graphs++;
    for (auto& work : ((card::Graph*)graph)->works) work();
    return SUCCESS;
}
API cuGraphDestroy(void* graph) { return delete (card::Graph*)graph, SUCCESS; }
API cuGraphExecDestroy(void* graph) { return delete (card::Graph*)graph, SUCCESS; }

API cuEventCreate(void** event, unsigned) { return *event = new Event, SUCCESS; }
API cuEventDestroy_v2(void* event) { return delete (Event*)event, SUCCESS; }
API cuEventRecord(void* event, void*) { return ((Event*)event)->at = std::chrono::steady_clock::now(), SUCCESS; }
API cuEventQuery(void*) { return SUCCESS; }
API cuEventSynchronize(void*) { return counters.waits++, SUCCESS; }
API cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    *milliseconds = std::chrono::duration<float, std::milli>(((Event*)to)->at - ((Event*)from)->at).count();
    return SUCCESS;
}
API cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) { return cuEventElapsedTime(milliseconds, from, to); }

API cuModuleLoadData(void** module, const void* image) {
    const std::string given = (const char*)image;
    if (given == card::FULL_IMAGE) *module = new Module{FULL, std::size(FULL)};
    else if (given == card::TF32_IMAGE) *module = new Module{TENSORS, std::size(TENSORS)};
    else if (given == card::HALF_IMAGE) *module = new Module{HALVES, std::size(HALVES)};
    else return INVALID_IMAGE;
    return SUCCESS;
}
API cuModuleLoadDataEx(void** module, const void* image, unsigned, int*, void**) { return cuModuleLoadData(module, image); }
API cuModuleUnload(void* module) { return delete (Module*)module, SUCCESS; }
API cuModuleGetFunction(void** function, void* module, const char* name) {
    const Module& from = *(Module*)module;
    for (size_t i = 0; i < from.count; i++)
        if (!strcmp(from.kernels[i].name, name)) return *function = new Function{&from.kernels[i]}, SUCCESS;
    return NOT_FOUND;
}
// 8: dynamic shared memory, at most what a block of this card can have.
API cuFuncSetAttribute(void* function, int attribute, int value) {
    if (attribute != 8) return SUCCESS;
    if (value < 0 || (size_t)value > emulator::SHARED_LIMIT) return INVALID_VALUE;
    return ((Function*)function)->shared_limit = value, SUCCESS;
}
API cuFuncGetAttribute(int* value, int attribute, void* function) {
    *value = attribute == 0 ? 1024 : attribute == 8 ? (int)((Function*)function)->shared_limit : 0;
    return SUCCESS;
}
API cuFuncSetCacheConfig(void*, int) { return SUCCESS; }
API cuLaunchKernel(void* handle, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y, unsigned block_z,
                   unsigned shared, void* stream, void** parameters, void** extra) {
    const Function& function = *(Function*)handle;
    if (extra || !parameters || !x || !y || !z || x > 2147483647u || y > 65535 || z > 65535) return INVALID_VALUE;
    if (!block_x || !block_y || !block_z || block_x * block_y * block_z > 1024 || block_z > 64) return INVALID_VALUE;
    if (shared > function.shared_limit) return INVALID_VALUE;
    function.kernel->launch(*function.kernel, {x, y, z}, {block_x, block_y, block_z}, shared, stream, parameters);
    return SUCCESS;
}
