// Products as cuBLASLt defines them, on the host: D = alpha op(A) op(B) + beta C + bias, columns contiguous.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "tf32.h"

namespace products {

constexpr int FLOAT = 0, HALF_FLOAT = 2;                  // cudaDataType_t: CUDA_R_32F, CUDA_R_16F

// A matrix as its layout says; `step` numbers from one of a batch to the next.
struct Matrix {
    int type = FLOAT;
    int64_t rows = 0, columns = 0, lead = 0, step = 0;
    int batches = 1;
    size_t number() const { return type == HALF_FLOAT ? 2 : 4; }
    // From its first number to behind its last.
    size_t bytes() const {
        return rows && columns ? (size_t)((batches - 1) * step + (columns - 1) * lead + rows) * number() : 0;
    }
};

// m rows of D, n columns, k summed.
struct Product {
    Matrix a, b, c, d;
    bool turn_a = false, turn_b = false, tf32 = false;
    float alpha = 1.0f, beta = 0.0f;
    const float* bias = nullptr;                          // along D's rows, the same for each column
    int64_t m() const { return d.rows; }
    int64_t n() const { return d.columns; }
    int64_t k() const { return turn_a ? a.rows : a.columns; }
};

// Panels of `width` neighbours across the summed side: panel[p * width + i] = op(matrix)[first + i, p], zeros at the end.
// `along` is the step between neighbours and `down` that of the summed side.
template <class T>
static void pack_as(float* panel, const T* from, int64_t along, int64_t down, int64_t count, int64_t k, int width, bool tf32) {
    auto number = [&](T value) { return tf32 ? to_tf32((float)value) : (float)value; };
    if (count < width) memset(panel, 0, sizeof(float) * width * k);
    if (down == 1)
        for (int64_t i = 0; i < count; i++)
            for (int64_t p = 0; p < k; p++) panel[p * width + i] = number(from[i * along + p]);
    else
        for (int64_t p = 0; p < k; p++)
            for (int64_t i = 0; i < count; i++) panel[p * width + i] = number(from[i * along + p * down]);
}

static void pack(float* panel, const Matrix& matrix, const void* data, int64_t batch, int64_t first, int64_t along, int64_t down,
                 int64_t count, int64_t k, int width, bool tf32) {
    int64_t at = batch * matrix.step + first * along;
    if (matrix.type == HALF_FLOAT) pack_as(panel, (const _Float16*)data + at, along, down, count, k, width, false);
    else pack_as(panel, (const float*)data + at, along, down, count, k, width, tf32);
}

typedef float Eight __attribute__((vector_size(32), aligned(4)));
constexpr int TALL = 16, WIDE = 4;                        // numbers of D at once: eight vectors, as many as AVX2 holds

// Numbers along the summed side whose sum is made apart: cards cut that side where outputs are few for so many processors
// (split-K), as all outputs here are, and add the slices' sums.
constexpr int64_t SLICE = 64;

// sums[j][i] = a panel of op(A) times one of op(B).
static inline void panels(float (*sums)[TALL], const float* a, const float* b, int64_t k) {
    Eight all_low[WIDE] = {}, all_high[WIDE] = {};
    for (int64_t first = 0; first < k; first += SLICE) {
        Eight low[WIDE] = {}, high[WIDE] = {};
        for (int64_t p = first; p < std::min(k, first + SLICE); p++) {
            Eight x = *(const Eight*)(a + p * TALL), y = *(const Eight*)(a + p * TALL + 8);
            for (int j = 0; j < WIDE; j++) {
                low[j] += x * b[p * WIDE + j];
                high[j] += y * b[p * WIDE + j];
            }
        }
        for (int j = 0; j < WIDE; j++) all_low[j] += low[j], all_high[j] += high[j];
    }
    for (int j = 0; j < WIDE; j++) {
        memcpy(sums[j], &all_low[j], sizeof(Eight));
        memcpy(sums[j] + 8, &all_high[j], sizeof(Eight));
    }
}

static void multiply(const Product& product, const void* a, const void* b, const float* c, float* d) {
    const int64_t m = product.m(), n = product.n(), k = product.k();
    const int64_t a_along = product.turn_a ? product.a.lead : 1, a_down = product.turn_a ? 1 : product.a.lead;
    const int64_t b_along = product.turn_b ? 1 : product.b.lead, b_down = product.turn_b ? product.b.lead : 1;
    static thread_local std::vector<float> left, right;
    left.resize(TALL * k);
    right.resize((n + WIDE - 1) / WIDE * WIDE * k);
    for (int64_t batch = 0; batch < product.d.batches; batch++) {
        for (int64_t j = 0; j < n; j += WIDE)
            pack(right.data() + j * k, product.b, b, batch, j, b_along, b_down, std::min<int64_t>(WIDE, n - j), k, WIDE,
                 product.tf32);
        for (int64_t i = 0; i < m; i += TALL) {
            int64_t tall = std::min<int64_t>(TALL, m - i);
            pack(left.data(), product.a, a, batch, i, a_along, a_down, tall, k, TALL, product.tf32);
            for (int64_t j = 0; j < n; j += WIDE) {
                float sums[WIDE][TALL];
                panels(sums, left.data(), right.data() + j * k, k);
                for (int64_t column = j; column < std::min(n, j + WIDE); column++)
                    for (int64_t row = i; row < i + tall; row++) {
                        float sum = product.alpha * sums[column - j][row - i];
                        if (product.beta != 0.0f)
                            sum += product.beta * c[batch * product.c.step + column * product.c.lead + row];
                        if (product.bias) sum += product.bias[row];
                        d[batch * product.d.step + column * product.d.lead + row] = sum;
                    }
            }
        }
    }
}

}  // namespace products
