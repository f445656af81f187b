// The kernels of the GPU path: rows here, attention of texts in `attention.cu`, pictures in `pictures.cu`. The three are one
// source, in this order, compiled by NVRTC on the user's machine, by nvcc in checks, and by g++ against `emulator/` in tests.
// No header is needed. `-DHALF` makes what goes into products half precision; `-DTF32` leaves it float, for products by tensor
// cores, and lets attention use them too.
//
// `R` rows, `W` width = heads * size. Numbers are float32 unless they are `In`, the inputs of products. Sizes of heads are
// multiples of 8, and rows start on 16 bytes (both hold for every CLIP), so that rows may be read four numbers at a time.
// No atomics: every sum has one order, whatever the grid, so that a run repeats bit for bit. Blocks are (32, 4), a warp a row
// of threads, unless a kernel says otherwise.

#ifndef EMULATED
#define KERNEL extern "C" __global__ void
// Shared memory of a length given at the launch, and of a fixed one.
#define SHARED(name) extern __shared__ float4 name##_at[]; float* name = (float*)name##_at
#define TABLE(name, rows) __shared__ float name[rows][32]
#ifdef HALF
struct Half { unsigned short bits; };
__device__ static inline float wide(Half h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
    return f;
}
__device__ static inline Half narrow(float f) {
    Half h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(f));
    return h;
}
#endif
#endif

#ifdef HALF
typedef Half In;
__device__ static inline In to_in(float f) { return narrow(f); }
__device__ static inline float from_in(In f) { return wide(f); }
#else
typedef float In;
__device__ static inline In to_in(float f) { return f; }
__device__ static inline float from_in(In f) { return f; }
#endif

#define ALL_LANES 0xffffffffu

__device__ static inline float warp_sum(float v) {
    for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(ALL_LANES, v, step);
    return v;
}

// ---- Rows: norms, activations, sums ----

// LayerNorm of x [R,W] (`norm` is a name of CUDA's own): a warp a row, grid ceil(R/4). `stream` and `input` get the result as
// float and as In, `stats` [R,2] the mean and 1/sqrt(variance + epsilon); each may be null. Centred squares in a second pass:
// CLIP's stream has means that are large beside their spread.
KERNEL norm_rows(const float* x, const float* gain, const float* bias, float* stream, In* input, float* stats, int rows,
                 int width, float epsilon) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    long long at = (long long)row * width;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += 32) sum += x[at + i];
    float mean = warp_sum(sum) / width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += 32) {
        float away = x[at + i] - mean;
        squares += away * away;
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / width + epsilon);
    for (int i = threadIdx.x; i < width; i += 32) {
        float y = (x[at + i] - mean) * scale * gain[i] + bias[i];
        if (stream) stream[at + i] = y;
        if (input) input[at + i] = to_in(y);
    }
    if (stats && threadIdx.x == 0) {
        stats[2 * (long long)row] = mean;
        stats[2 * (long long)row + 1] = scale;
    }
}

// dx = (add ? dx : 0) + the gradient of `norm_rows` at x, a warp a row, grid ceil(R/4). `copy` (may be null) gets dx as In.
KERNEL norm_back(const float* x, const float* gain, const float* stats, const float* dy, float* dx, In* copy, int add, int rows,
                 int width) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    long long at = (long long)row * width;
    float mean = stats[2 * (long long)row], scale = stats[2 * (long long)row + 1];
    float sum = 0.0f, along = 0.0f;
    for (int i = threadIdx.x; i < width; i += 32) {
        float g = dy[at + i] * gain[i];
        sum += g;
        along += g * (x[at + i] - mean) * scale;
    }
    sum = warp_sum(sum) / width;
    along = warp_sum(along) / width;
    for (int i = threadIdx.x; i < width; i += 32) {
        float d = scale * (dy[at + i] * gain[i] - sum - (x[at + i] - mean) * scale * along);
        if (add) d += dx[at + i];
        dx[at + i] = d;
        if (copy) copy[at + i] = to_in(d);
    }
}

// Gradients of a norm's gain and bias [W]: a lane a column, grid ceil(W/32), block (32, 8). Each of the 8 warps sums every
// eighth row, then the 8 sums are added in order.
KERNEL norm_weights_back(const float* x, const float* stats, const float* dy, float* dgain, float* dbias, int rows, int width) {
    TABLE(sums, 16);                                      // of gains, then of biases
    int lane = threadIdx.x, warp = threadIdx.y, column = blockIdx.x * 32 + lane;
    float gain = 0.0f, bias = 0.0f;
    if (column < width)
        for (int row = warp; row < rows; row += 8) {
            float d = dy[(long long)row * width + column];
            gain += d * (x[(long long)row * width + column] - stats[2 * (long long)row]) * stats[2 * (long long)row + 1];
            bias += d;
        }
    sums[warp][lane] = gain;
    sums[8 + warp][lane] = bias;
    __syncthreads();
    if (warp > 0 || column >= width) return;
    for (int other = 1; other < 8; other++) {
        gain += sums[other][lane];
        bias += sums[8 + other][lane];
    }
    dgain[column] = gain;
    dbias[column] = bias;
}

#define QUICK_GELU 0
#define ERF_GELU 1
#define TANH_GELU 2
#define ROOT_HALF 0.70710678118654752f
#define ROOT_TWO_OVER_PI 0.79788456080286536f
#define ONE_OVER_ROOT_TWO_PI 0.39894228040143268f

// out = the activation of h: 0 x * sigmoid(1.702 x), 1 GELU by erf, 2 GELU by tanh. Grid ceil(n/256), block 256.
KERNEL activate(const float* h, In* out, long long n, int kind) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = h[i], share;
    if (kind == QUICK_GELU) share = 1.0f / (1.0f + expf(-1.702f * x));
    else if (kind == ERF_GELU) share = 0.5f * (1.0f + erff(x * ROOT_HALF));
    else share = 0.5f * (1.0f + tanhf(ROOT_TWO_OVER_PI * (x + 0.044715f * x * x * x)));
    out[i] = to_in(x * share);
}

// dx = dy * the activation's slope at h. `dx` may be the memory of `dy` where In is float. Grid ceil(n/256), block 256.
KERNEL activate_back(const float* h, const float* dy, In* dx, long long n, int kind) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = h[i], slope;
    if (kind == QUICK_GELU) {
        float share = 1.0f / (1.0f + expf(-1.702f * x));
        slope = share * (1.0f + 1.702f * x * (1.0f - share));
    } else if (kind == ERF_GELU) {
        slope = 0.5f * (1.0f + erff(x * ROOT_HALF)) + x * ONE_OVER_ROOT_TWO_PI * expf(-0.5f * x * x);
    } else {
        float t = tanhf(ROOT_TWO_OVER_PI * (x + 0.044715f * x * x * x));
        slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * ROOT_TWO_OVER_PI * (1.0f + 3.0f * 0.044715f * x * x);
    }
    dx[i] = to_in(dy[i] * slope);
}

// x += y; `copy` (may be null) gets x as In. Grid ceil(n/256), block 256.
KERNEL add(float* x, const float* y, In* copy, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float sum = x[i] + y[i];
    x[i] = sum;
    if (copy) copy[i] = to_in(sum);
}

// out = x * scale as In. Grid ceil(n/256), block 256.
KERNEL to_input(const float* x, In* out, float scale, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = to_in(x[i] * scale);
}

// out = x as float. Grid ceil(n/256), block 256.
KERNEL from_input(const In* x, float* out, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = from_in(x[i]);
}

// out = x * y * factor. Grid ceil(n/256), block 256.
KERNEL times(const float* x, const float* y, float* out, float factor, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] * y[i] * factor;
}

// ---- Prompts and gathered rows ----

// out[r] = x[r] where source[r] < 0, else kept * x[r] + share * prompt[source[r]]. With kept 0 such rows of x are not looked
// at, and x may be null where there are no others. A warp a row, grid ceil(R/4).
KERNEL put_rows(const float* x, const float* prompt, const int* source, float* out, float kept, float share, int rows,
                int width) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    int from = source[row];
    long long at = (long long)row * width;
    for (int i = threadIdx.x; i < width; i += 32) {
        float y = 0.0f;
        if (from < 0) y = x[at + i];
        else if (kept != 0.0f) y = kept * x[at + i];
        if (from >= 0) y += share * prompt[(long long)from * width + i];
        out[at + i] = y;
    }
}

// dprompt[s] (where not null) = share * the sum of dy[list[offset[s]..offset[s+1]]]; then those rows of dy, and of copy where
// not null, become kept * dy. A row is in one list at most. A lane a column, grid (sources, ceil(W/32)), block (32, 8): each
// of the 8 warps sums every eighth row of the list, then the 8 sums are added in order.
KERNEL put_rows_back(float* dy, In* copy, const int* offset, const int* list, float* dprompt, float kept, float share,
                     int sources, int width) {
    TABLE(sums, 8);
    int lane = threadIdx.x, warp = threadIdx.y, column = blockIdx.y * 32 + lane, source = blockIdx.x;
    float sum = 0.0f;
    if (column < width)
        for (int j = offset[source] + warp; j < offset[source + 1]; j += 8) {
            long long at = (long long)list[j] * width + column;
            float d = dy[at];
            sum += d;
            d = kept == 0.0f ? 0.0f : kept * d;
            dy[at] = d;
            if (copy) copy[at] = to_in(d);
        }
    if (!dprompt) return;
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= width) return;
    for (int other = 1; other < 8; other++) sum += sums[other][lane];
    dprompt[(long long)source * width + column] = share * sum;
}

// out[r] = x[from[r]], zeros where from[r] < 0. A warp a row, grid ceil(R/4).
KERNEL gather(const float* x, const int* from, float* out, int rows, int width) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    int source = from[row];
    for (int i = threadIdx.x; i < width; i += 32)
        out[(long long)row * width + i] = source < 0 ? 0.0f : x[(long long)source * width + i];
}

// dx[r] = (add ? dx[r] : 0) + the sum of dy[list[offset[r]..offset[r+1]]]; `copy` (may be null) gets dx as In. A warp a row,
// grid ceil(R/4).
KERNEL gather_back(const float* dy, const int* offset, const int* list, float* dx, In* copy, int add, int rows, int width) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    long long at = (long long)row * width;
    for (int i = threadIdx.x; i < width; i += 32) {
        float sum = add ? dx[at + i] : 0.0f;
        for (int j = offset[row]; j < offset[row + 1]; j++) sum += dy[(long long)list[j] * width + i];
        dx[at + i] = sum;
        if (copy) copy[at + i] = to_in(sum);
    }
}
