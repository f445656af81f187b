// NVRTC and cuBLASLt of the null driver (see driver.cpp).
#include <algorithm>

#include "card.h"
#include "products.h"

using card::counters;
using products::Matrix;
using products::Product;

// ---- NVRTC: knows one program, the kernels this library was built from ----

asm(R"(
    .section .rodata
emulator_kernels_text:
    .incbin "kernels.cu"
    .byte 0
emulator_attention_text:
    .incbin "attention.cu"
    .byte 0
emulator_pictures_text:
    .incbin "pictures.cu"
    .byte 0
    .text
)");
extern "C" const char kernels_text[] __asm__("emulator_kernels_text");
extern "C" const char attention_text[] __asm__("emulator_attention_text");
extern "C" const char pictures_text[] __asm__("emulator_pictures_text");

namespace {

struct Program {
    std::string source, image, log;
};

enum { NVRTC_SUCCESS = 0, NVRTC_COMPILATION = 6 };

}  // namespace

API nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, NVRTC_SUCCESS; }
API nvrtcGetNumSupportedArchs(int* count) { return *count = 4, NVRTC_SUCCESS; }
API nvrtcGetSupportedArchs(int* archs) {
    const int known[] = {80, 86, 90, 100};
    return std::copy(known, known + 4, archs), NVRTC_SUCCESS;
}
extern "C" __attribute__((visibility("default"))) const char* nvrtcGetErrorString(int error) {
    return error == NVRTC_SUCCESS ? "NVRTC_SUCCESS" : "NVRTC_ERROR_COMPILATION";
}
API nvrtcCreateProgram(void** program, const char* source, const char*, int, const char* const*, const char* const*) {
    return *program = new Program{source, "", ""}, NVRTC_SUCCESS;
}
API nvrtcDestroyProgram(void** program) {
    delete (Program*)*program;
    return *program = nullptr, NVRTC_SUCCESS;
}
API nvrtcCompileProgram(void* handle, int count, const char* const* options) {
    Program& program = *(Program*)handle;
    if (program.source != std::string(kernels_text) + attention_text + pictures_text) {
        program.log = "these are not the kernels that the null driver was built from: build it anew";
        return NVRTC_COMPILATION;
    }
    program.image = card::FULL_IMAGE;
    for (int i = 0; i < count; i++) {
        std::string option = options[i];
        if (option == "-DHALF" || option == "-DHALF=1" || option == "--define-macro=HALF") program.image = card::HALF_IMAGE;
        else if (option == "-DTF32" || option == "-DTF32=1" || option == "--define-macro=TF32") program.image = card::TF32_IMAGE;
        else if (option.rfind("-D", 0) == 0 || option.rfind("--define-macro", 0) == 0) {
            program.log = "the null driver does not know " + option;
            return NVRTC_COMPILATION;
        }
    }
    return NVRTC_SUCCESS;
}
API nvrtcGetProgramLogSize(void* program, size_t* bytes) { return *bytes = ((Program*)program)->log.size() + 1, NVRTC_SUCCESS; }
API nvrtcGetProgramLog(void* program, char* log) { return strcpy(log, ((Program*)program)->log.c_str()), NVRTC_SUCCESS; }
API nvrtcGetPTXSize(void* program, size_t* bytes) { return *bytes = ((Program*)program)->image.size() + 1, NVRTC_SUCCESS; }
API nvrtcGetPTX(void* program, char* image) { return strcpy(image, ((Program*)program)->image.c_str()), NVRTC_SUCCESS; }
API nvrtcGetCUBINSize(void* program, size_t* bytes) { return nvrtcGetPTXSize(program, bytes); }
API nvrtcGetCUBIN(void* program, char* image) { return nvrtcGetPTX(program, image); }

// ---- cuBLASLt: products of float32 or half inputs, float32 sums and outputs ----

namespace {

enum { OK = 0, INVALID = 7, NOT_SUPPORTED = 15 };
enum { COMPUTE_32F = 68, COMPUTE_32F_TF32 = 77 };
enum { EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4 };

struct Description {
    int compute = COMPUTE_32F, scale = products::FLOAT, pointer_mode = 0, turn_a = 0, turn_b = 0, epilogue = EPILOGUE_DEFAULT;
    int bias_type = -1;
    const float* bias = nullptr;
    int64_t bias_step = 0;
};

// What a search may take for granted. cuBLASLt's own default for pointers is 256 bytes.
struct Preference {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};         // of A, B, C, D
};

// Fits cublasLtMatmulAlgo_t's 64 bytes: which product it was found for, and how its pointers may lie.
struct Algorithm {
    uint64_t mark, product;
    uint32_t alignment[4];
    uint64_t rest[4];
};
static_assert(sizeof(Algorithm) == 64, "cublasLtMatmulAlgo_t");
constexpr uint64_t MARK = 0x6e756c6c64726976;             // "nulldriv"

struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

template <class T> int set(T& field, const void* from, size_t bytes) {
    if (bytes != sizeof(T)) return INVALID;
    return memcpy(&field, from, bytes), OK;
}

int set_matrix(Matrix& matrix, int attribute, const void* from, size_t bytes) {
    int order = 0;
    switch (attribute) {
        case 0: return set(matrix.type, from, bytes);
        case 1: return set(order, from, bytes) == OK && order == 0 ? OK : NOT_SUPPORTED;        // columns contiguous
        case 2: return set(matrix.rows, from, bytes);
        case 3: return set(matrix.columns, from, bytes);
        case 4: return set(matrix.lead, from, bytes);
        case 5: return set(matrix.batches, from, bytes);
        case 6: return set(matrix.step, from, bytes);
        default: return NOT_SUPPORTED;
    }
}

int set_description(Description& description, int attribute, const void* from, size_t bytes) {
    switch (attribute) {
        case 0: return set(description.compute, from, bytes);
        case 1: return set(description.scale, from, bytes);
        case 2: return set(description.pointer_mode, from, bytes);
        case 3: return set(description.turn_a, from, bytes);
        case 4: return set(description.turn_b, from, bytes);
        case 7: return set(description.epilogue, from, bytes);
        case 8: return set(description.bias, from, bytes);
        case 10: return set(description.bias_step, from, bytes);
        case 26: return set(description.bias_type, from, bytes);
        default: return NOT_SUPPORTED;
    }
}

// The product that the description and the layouts are of, or why there is none.
int product_of(Product& product, const Description& description, const Matrix& a, const Matrix& b, const Matrix& c,
               const Matrix& d) {
    product.a = a, product.b = b, product.c = c, product.d = d;
    product.turn_a = description.turn_a == 1, product.turn_b = description.turn_b == 1;
    product.tf32 = description.compute == COMPUTE_32F_TF32;
    bool float_in = a.type == products::FLOAT && b.type == products::FLOAT;
    bool half_in = a.type == products::HALF_FLOAT && b.type == products::HALF_FLOAT;
    if (!float_in && !half_in) return NOT_SUPPORTED;
    if (c.type != products::FLOAT || d.type != products::FLOAT || description.scale != products::FLOAT) return NOT_SUPPORTED;
    if (description.compute != COMPUTE_32F && !(product.tf32 && float_in)) return NOT_SUPPORTED;
    if (description.pointer_mode != 0 || description.turn_a > 1 || description.turn_b > 1) return NOT_SUPPORTED;
    if (description.epilogue != EPILOGUE_DEFAULT && description.epilogue != EPILOGUE_BIAS) return NOT_SUPPORTED;
    if (description.bias_type > 0 || description.bias_step != 0) return NOT_SUPPORTED;
    for (const Matrix* matrix : {&a, &b, &c, &d})
        if (matrix->rows < 1 || matrix->columns < 1 || matrix->lead < matrix->rows || matrix->batches != d.batches)
            return INVALID;
    int64_t m = product.turn_a ? a.columns : a.rows, n = product.turn_b ? b.rows : b.columns;
    int64_t other_k = product.turn_b ? b.columns : b.rows;
    bool fits = d.rows == m && d.columns == n && product.k() == other_k && c.rows == m && c.columns == n;
    return fits ? OK : INVALID;
}

uint64_t mark_of(const Product& product, int epilogue) {
    uint64_t mark = 14695981039346656037ULL;
    auto mix = [&](int64_t value) { mark = (mark ^ (uint64_t)value) * 1099511628211ULL; };
    for (const Matrix* m : {&product.a, &product.b, &product.c, &product.d})
        for (int64_t value : {(int64_t)m->type, m->rows, m->columns, m->lead, (int64_t)m->batches}) mix(value);
    for (int value : {(int)product.turn_a, (int)product.turn_b, (int)product.tf32, epilogue}) mix(value);
    return mark;
}

bool overlap(const void* a, size_t a_bytes, const void* b, size_t b_bytes) {
    return (const char*)a < (const char*)b + b_bytes && (const char*)b < (const char*)a + a_bytes;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) size_t cublasLtGetVersion() { return 130000; }
extern "C" __attribute__((visibility("default"))) size_t cublasLtGetCudartVersion() { return 13000; }
extern "C" __attribute__((visibility("default"))) const char* cublasLtGetStatusName(int status) {
    if (status == OK) return "CUBLAS_STATUS_SUCCESS";
    return status == INVALID ? "CUBLAS_STATUS_INVALID_VALUE" : "CUBLAS_STATUS_NOT_SUPPORTED";
}
extern "C" __attribute__((visibility("default"))) const char* cublasLtGetStatusString(int status) {
    return cublasLtGetStatusName(status);
}
static int library;
API cublasLtCreate(void** handle) { return *handle = &library, OK; }
API cublasLtDestroy(void*) { return OK; }

API cublasLtMatmulDescCreate(void** description, int compute, int scale) {
    auto* made = new Description;
    made->compute = compute;
    made->scale = scale;
    return *description = made, OK;
}
API cublasLtMatmulDescSetAttribute(void* description, int attribute, const void* from, size_t bytes) {
    return set_description(*(Description*)description, attribute, from, bytes);
}
API cublasLtMatmulDescDestroy(void* description) { return delete (Description*)description, OK; }

API cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t lead) {
    auto* made = new Matrix;
    made->type = type;
    made->rows = rows;
    made->columns = columns;
    made->lead = lead;
    return *layout = made, OK;
}
API cublasLtMatrixLayoutSetAttribute(void* layout, int attribute, const void* from, size_t bytes) {
    return set_matrix(*(Matrix*)layout, attribute, from, bytes);
}
API cublasLtMatrixLayoutDestroy(void* layout) { return delete (Matrix*)layout, OK; }

API cublasLtMatmulPreferenceCreate(void** preference) { return *preference = new Preference, OK; }
API cublasLtMatmulPreferenceSetAttribute(void* handle, int attribute, const void* from, size_t bytes) {
    Preference& preference = *(Preference*)handle;
    if (attribute == 1) return set(preference.workspace, from, bytes);
    if (attribute >= 5 && attribute <= 8) return set(preference.alignment[attribute - 5], from, bytes);
    return OK;                                            // what else narrows a search narrows nothing here
}
API cublasLtMatmulPreferenceDestroy(void* preference) { return delete (Preference*)preference, OK; }

API cublasLtMatmulAlgoGetHeuristic(void*, void* description, void* a, void* b, void* c, void* d, void* preference, int wanted,
                                   Heuristic* results, int* found) {
    Product product;
    *found = 0;
    int state = product_of(product, *(Description*)description, *(Matrix*)a, *(Matrix*)b, *(Matrix*)c, *(Matrix*)d);
    if (state != OK || wanted < 1) return state;
    *results = Heuristic{};
    results->algorithm.mark = MARK;
    results->algorithm.product = mark_of(product, ((Description*)description)->epilogue);
    memcpy(results->algorithm.alignment, ((Preference*)preference)->alignment, sizeof results->algorithm.alignment);
    results->waves = 1.0f;
    return *found = 1, OK;
}

// Aborts at what a card would compute wrongly or not at all: pointers that lie otherwise than the search was told, an
// algorithm of another product, an output over an input.
API cublasLtMatmul(void*, void* handle, const float* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                   const float* beta, const void* c, void* c_layout, void* d, void* d_layout, const Algorithm* algorithm,
                   void* workspace, size_t workspace_bytes, void* stream) {
    const Description& description = *(Description*)handle;
    Product product;
    int state = product_of(product, description, *(Matrix*)a_layout, *(Matrix*)b_layout, *(Matrix*)c_layout, *(Matrix*)d_layout);
    if (state != OK) return state;
    product.alpha = *alpha;
    product.beta = *beta;
    if (description.epilogue == EPILOGUE_BIAS) product.bias = description.bias;
    char name[96];
    snprintf(name, sizeof name, "product [%ld x %ld] over %ld: ", (long)product.m(), (long)product.n(), (long)product.k());
    const std::string what = name;
    if (description.epilogue == EPILOGUE_BIAS && !product.bias) card::fail(what + "no bias was given");
    const void* pointers[] = {a, b, product.beta == 0.0f ? d : c, d};
    const char* letters[] = {"A", "B", "C", "D"};
    if (algorithm) {
        if (algorithm->mark != MARK || algorithm->product != mark_of(product, description.epilogue))
            card::fail(what + "its algorithm was found for another product");
        for (int i = 0; i < 4; i++)
            if ((uintptr_t)pointers[i] % algorithm->alignment[i])
                card::fail(what + letters[i] + " does not lie on the bytes its algorithm was found for");
    }
    card::submit(stream, [=] {
        card::check(a, product.a.bytes(), what + "A");
        card::check(b, product.b.bytes(), what + "B");
        if (product.beta != 0.0f) card::check(c, product.c.bytes(), what + "C");
        card::check(d, product.d.bytes(), what + "D");
        if (product.bias) card::check(product.bias, product.m() * sizeof(float), what + "bias");
        if (workspace_bytes) card::check(workspace, workspace_bytes, what + "workspace");
        if (overlap(d, product.d.bytes(), a, product.a.bytes()) || overlap(d, product.d.bytes(), b, product.b.bytes()))
            card::fail(what + "D is written over A or B");
        if (product.beta != 0.0f && c != d && overlap(d, product.d.bytes(), c, product.c.bytes()))
            card::fail(what + "C and D overlap without being the same");
        counters.products++;
        double done = 2.0 * product.m() * product.n() * product.k() * product.d.batches, sum = counters.flops;
        while (!counters.flops.compare_exchange_weak(sum, sum + done)) {}
        if (!card::skip) products::multiply(product, a, b, (const float*)c, (float*)d);
    });
    return OK;
}
