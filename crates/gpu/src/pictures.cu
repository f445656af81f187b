// Pictures: their patches, and attention, forward and backward. Behind `attention.cu`, some of which it uses.

// ---- Patches and positions ----

// pixels [B,3,G*P,G*P] as rows of patches [B*G*G, 3*P*P], each channel by row by column. Grid ceil(B*3*(G*P)^2 / 256),
// block 256, a thread a number.
KERNEL patches(const float* pixels, In* out, int pictures, int grid, int patch) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int side = grid * patch, area = patch * patch;
    if (i >= 3LL * pictures * side * side) return;
    int within = (int)(i % (3 * area)), cell = (int)(i / (3 * area) % (grid * grid));
    long long picture = i / (3LL * side * side);
    int channel = within / area, y = cell / grid * patch + within % area / patch, x = cell % grid * patch + within % patch;
    out[i] = to_in(pixels[((picture * 3 + channel) * side + y) * side + x]);
}

// out [B, (classes ? 1 : 0) + count + extra, W]: the class row (where not null) and patches [B*count, W], both with their row
// of positions added, then zeros. A warp a row, grid ceil(rows/4).
KERNEL embed_pictures(const float* patches, const float* classes, const float* positions, float* out, int pictures, int count,
                      int extra, int width) {
    int lead = classes ? 1 : 0, length = lead + count + extra, row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= pictures * length) return;
    int picture = row / length, token = row % length;
    long long patch = (long long)picture * count + token - lead;
    for (int i = threadIdx.x; i < width; i += 32) {
        float y = 0.0f;
        if (token < lead) y = classes[i] + positions[i];
        else if (token < lead + count) y = patches[patch * width + i] + positions[(long long)token * width + i];
        out[(long long)row * width + i] = y;
    }
}

// ---- Attention of pictures: all rows of a picture see each other ----
//
// Rows of 32 queries and 32 keys meet in shared memory, `pad` = size + 4 numbers apart: then 8 lanes that read four numbers
// each from 8 rows touch 32 different banks, for every size that is a multiple of 8. Each warp has 8 rows of its side (MINE)
// and meets the 32 of the other: first products of rows, then sums of the other's rows with a table of pairs as weights. For
// pairs, a lane has a row of the other side.

#define TILE 32
#define MINE 8
#define PAIRS (TILE + 4)              // from one of my rows to the next in a table of pairs; column 32 holds its factor

// Where products may be less exact than float32, tensor cores do these too: their inputs keep 11 bits (tf32), as half does.
#undef TENSOR
#if (defined(HALF) || defined(TF32)) && (defined(EMULATED) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800)
#define TENSOR
#endif

#ifdef TENSOR
#ifndef EMULATED
__device__ static inline float to_tf32(float f) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(f));
    return __uint_as_float(bits);
}
// c [16,8] += a [16,8] b [8,8] by a warp: lane l has c[l/4 (+8)][l%4 * 2 (+1)], a[l/4 (+8)][l%4 (+4)] and b[l%4 (+4)][l/4].
__device__ static inline void warp_multiply(float* c, const float* a, const float* b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#endif
__device__ static inline float to_product(float f) { return to_tf32(f); }
#else
__device__ static inline float to_product(float f) { return f; }
#endif

// Rows of `from`, `stride` apart, times `factor`: `count` of them (more than 32 or less than none: cut), zeros up to 32.
__device__ static inline void load_tile(float* tile, const float* from, long long stride, int count, int size, float factor) {
    int thread = threadIdx.y * 32 + threadIdx.x;
    for (int row = thread / 8; row < TILE; row += 16)
        for (int d = thread % 8 * 4; d < size; d += 32) {
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (row < count) v = load4(from + row * stride + d);
            *(float4*)(tile + row * (size + 4) + d) = make_float4(to_product(v.x * factor), to_product(v.y * factor),
                                                                  to_product(v.z * factor), to_product(v.w * factor));
        }
}

#ifdef TENSOR

// products[i] = my row i . the lane's row of the other side. `table` is room for pairs.
__device__ static inline void tile_products(float* products, const float* mine, const float* other, float* table, int size) {
    int lane = threadIdx.x, row = lane / 4, column = lane % 4, pad = size + 4;
    float c[2][4] = {};                                   // rows of the other side by rows of mine
    for (int d = 0; d < size; d += 8) {
        const float* from = mine + row * pad + d + column;
        float b[2] = {from[0], from[4]};
#pragma unroll
        for (int t = 0; t < 2; t++) {
            const float* at = other + (16 * t + row) * pad + d + column;
            float a[4] = {at[0], at[8 * pad], at[4], at[8 * pad + 4]};
            warp_multiply(c[t], a, b);
        }
    }
#pragma unroll
    for (int t = 0; t < 2; t++) {
        float* to = table + 2 * column * PAIRS + 16 * t + row;
        to[0] = c[t][0], to[PAIRS] = c[t][1], to[8] = c[t][2], to[PAIRS + 8] = c[t][3];
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < MINE; i++) products[i] = table[i * PAIRS + lane];
    __syncwarp();
}

// Sums of my 8 rows: each of 2 * PARTS blocks has 16 dimensions by 8 rows.
template <int PARTS> struct Sums { float at[2 * PARTS][4]; };

// Adds the pairs of my rows with the tile's rows, times those rows.
template <int PARTS>
__device__ static inline void tile_sums(Sums<PARTS>& sums, const float* pairs, const float* tile, int size) {
    int row = threadIdx.x / 4, column = threadIdx.x % 4, pad = size + 4;
    for (int j = 0; j < TILE; j += 8) {
        const float* from = pairs + row * PAIRS + j + column;
        float b[2] = {from[0], from[4]};
#pragma unroll
        for (int t = 0; t < 2 * PARTS; t++) {
            if (16 * t >= size) continue;
            const float* at = tile + (j + column) * pad + 16 * t + row;
            bool whole = 16 * t + 8 < size;
            float a[4] = {at[0], whole ? at[8] : 0.0f, at[4 * pad], whole ? at[4 * pad + 8] : 0.0f};
            warp_multiply(sums.at[t], a, b);
        }
    }
}

// Times the factor that column 32 of the table has for each of my rows.
template <int PARTS> __device__ static inline void scale_sums(Sums<PARTS>& sums, const float* pairs) {
    const float* factor = pairs + threadIdx.x % 4 * 2 * PAIRS + TILE;
#pragma unroll
    for (int t = 0; t < 2 * PARTS; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums.at[t][e] *= factor[e % 2 * PAIRS];
}

// Writes `count` of my rows, times factor, `stride` apart.
template <int PARTS>
__device__ static inline void store_sums(In* to, long long stride, const Sums<PARTS>& sums, int count, int size, float factor) {
#pragma unroll
    for (int t = 0; t < 2 * PARTS; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int i = threadIdx.x % 4 * 2 + e % 2, d = 16 * t + threadIdx.x / 4 + e / 2 * 8;
            if (i < count && d < size) to[i * stride + d] = to_in(sums.at[t][e] * factor);
        }
}

#else

__device__ static inline void tile_products(float* products, const float* mine, const float* other, float*, int size) {
    const float* own = other + threadIdx.x * (size + 4);
#pragma unroll
    for (int i = 0; i < MINE; i++) products[i] = 0.0f;
    // Unrolled, it would hold 190 registers, and a third fewer warps would fit a card.
#pragma unroll 1
    for (int d = 0; d < size; d += 4) {
        float4 b = load4(own + d);
#pragma unroll
        for (int i = 0; i < MINE; i++) products[i] = dot4(load4(mine + i * (size + 4) + d), b, products[i]);
    }
}

// Sums of my 8 rows: a lane has PARTS dimensions, 32 apart.
template <int PARTS> struct Sums { float at[MINE][PARTS]; };

template <int PARTS>
__device__ static inline void tile_sums(Sums<PARTS>& sums, const float* pairs, const float* tile, int size) {
#pragma unroll 1
    for (int j = 0; j < TILE; j += 4) {
        float v[4][PARTS];
#pragma unroll
        for (int t = 0; t < PARTS; t++) {
            int d = threadIdx.x + 32 * t;
#pragma unroll
            for (int e = 0; e < 4; e++) v[e][t] = d < size ? tile[(j + e) * (size + 4) + d] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            float4 p = load4(pairs + i * PAIRS + j);
#pragma unroll
            for (int t = 0; t < PARTS; t++)
                sums.at[i][t] += p.x * v[0][t] + p.y * v[1][t] + p.z * v[2][t] + p.w * v[3][t];
        }
    }
}

template <int PARTS> __device__ static inline void scale_sums(Sums<PARTS>& sums, const float* pairs) {
#pragma unroll
    for (int i = 0; i < MINE; i++)
#pragma unroll
        for (int t = 0; t < PARTS; t++) sums.at[i][t] *= pairs[i * PAIRS + TILE];
}

template <int PARTS>
__device__ static inline void store_sums(In* to, long long stride, const Sums<PARTS>& sums, int count, int size, float factor) {
#pragma unroll
    for (int i = 0; i < MINE; i++)
#pragma unroll
        for (int t = 0; t < PARTS; t++) {
            int d = threadIdx.x + 32 * t;
            if (i < count && d < size) to[i * stride + d] = to_in(sums.at[i][t] * factor);
        }
}

#endif

template <int PARTS>
__device__ static void full_forward(float* room, const float* qkv, In* out, float* logsum, int pictures, int tokens, int heads,
                                    int size, int asking) {
    int lane = threadIdx.x, warp = threadIdx.y, head = blockIdx.y, picture = blockIdx.z, width = heads * size;
    int pad = size + 4, first = blockIdx.x * TILE, mine = min(MINE, asking - first - warp * MINE);
    float* q = room;
    float* k = q + TILE * pad;
    float* v = k + TILE * pad;
    float* pairs = v + TILE * pad + warp * MINE * PAIRS;
    long long stride = 3LL * width;
    const float* rows = qkv + picture * tokens * stride + head * size;

    load_tile(q, rows + first * stride, stride, asking - first, size, score_scale(size));
    Sums<PARTS> o = {};
    float top = LOWEST, total = 0.0f;                     // of query lane / 4
    for (int start = 0; start < tokens; start += TILE) {
        load_tile(k, rows + start * stride + width, stride, tokens - start, size, 1.0f);
        load_tile(v, rows + start * stride + 2 * width, stride, tokens - start, size, 1.0f);
        __syncthreads();
        if (mine > 0) {
            float s[MINE];
            tile_products(s, q + warp * MINE * pad, k, pairs, size);
#pragma unroll
            for (int i = 0; i < MINE; i++) pairs[i * PAIRS + lane] = start + lane < tokens ? s[i] : LOWEST;
            __syncwarp();
            // Four lanes share a query's softmax: two shuffles a tile instead of five a query.
            float* own = pairs + lane / 4 * PAIRS;
            float high = top, sum = 0.0f;
            for (int j = lane % 4; j < TILE; j += 4) high = fmaxf(high, own[j]);
            high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, 1));
            high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, 2));
            for (int j = lane % 4; j < TILE; j += 4) {
                float share = expf(own[j] - high);
                own[j] = to_product(share);
                sum += share;
            }
            float fade = expf(top - high);
            if (lane % 4 == 0) own[TILE] = fade;
            total = total * fade + sum;
            top = high;
            __syncwarp();
            scale_sums(o, pairs);
            tile_sums(o, pairs, v, size);
        }
        __syncthreads();
    }
    if (mine <= 0) return;
    total += __shfl_xor_sync(ALL_LANES, total, 1);
    total += __shfl_xor_sync(ALL_LANES, total, 2);
    long long at = (long long)picture * asking + first + warp * MINE;
    if (lane % 4 == 0) {
        pairs[lane / 4 * PAIRS + TILE] = 1.0f / total;
        if (lane / 4 < mine) logsum[(long long)head * pictures * asking + at + lane / 4] = top + logf(total);
    }
    __syncwarp();
    scale_sums(o, pairs);
    store_sums(out + at * width + head * size, width, o, mine, size, 1.0f);
}

// deltas[i] = dout . out of 32 rows of queries, `dout` already in shared memory: each warp sums a quarter of each row, then
// every thread adds the four. Ends with a barrier of the block.
__device__ static inline void tile_deltas(float* deltas, const float* dout, const In* out, int width, int count, int size) {
    int lane = threadIdx.x, warp = threadIdx.y;
    float sum = 0.0f;
    if (lane < count)
        for (int d = warp * (size / 4); d < (warp + 1) * (size / 4); d++)
            sum += dout[lane * (size + 4) + d] * from_in(out[(long long)lane * width + d]);
    deltas[warp * 32 + lane] = sum;
    __syncthreads();
}

__device__ static inline float delta_of(const float* deltas, int i) {
    return deltas[i] + deltas[32 + i] + deltas[64 + i] + deltas[96 + i];
}

// dq of 32 queries of a picture's head: keys and values pass by in tiles.
template <int PARTS>
__device__ static void full_query_back(float* room, const float* qkv, const In* out, const float* logsum, const float* dout,
                                       In* dqkv, int block, int pictures, int tokens, int heads, int size, int asking) {
    int lane = threadIdx.x, warp = threadIdx.y, head = blockIdx.y, picture = blockIdx.z, width = heads * size;
    int pad = size + 4, first = block * TILE, mine = min(MINE, asking - first - warp * MINE);
    float* q = room;
    float* g = q + TILE * pad;
    float* k = g + TILE * pad;
    float* v = k + TILE * pad;
    float* pairs = v + TILE * pad + warp * MINE * PAIRS;
    float* deltas = v + TILE * pad + 8 * MINE * PAIRS;
    long long stride = 3LL * width, head_at = (long long)picture * tokens * stride + head * size;
    long long asked = (long long)picture * asking + first, at = asked * width + head * size;
    const float* rows = qkv + head_at;
    const float* sums = logsum + (long long)head * pictures * asking + asked;

    load_tile(q, rows + first * stride, stride, asking - first, size, score_scale(size));
    load_tile(g, dout + at, width, asking - first, size, 1.0f);
    __syncthreads();
    tile_deltas(deltas, g, out + at, width, asking - first, size);
    Sums<PARTS> dq = {};
    for (int start = 0; start < tokens; start += TILE) {
        load_tile(k, rows + start * stride + width, stride, tokens - start, size, 1.0f);
        load_tile(v, rows + start * stride + 2 * width, stride, tokens - start, size, 1.0f);
        __syncthreads();
        if (mine > 0) {
            float s[MINE], dp[MINE];
            tile_products(s, q + warp * MINE * pad, k, pairs, size);
            tile_products(dp, g + warp * MINE * pad, v, pairs, size);
#pragma unroll
            for (int i = 0; i < MINE; i++) {
                int own = warp * MINE + i;
                bool there = i < mine && start + lane < tokens;
                float slope = there ? pair_back(s[i], dp[i], sums[own], delta_of(deltas, own)).slope : 0.0f;
                pairs[i * PAIRS + lane] = to_product(slope);
            }
            __syncwarp();
            tile_sums(dq, pairs, k, size);
        }
        __syncthreads();
    }
    store_sums(dqkv + head_at + (first + warp * MINE) * stride, stride, dq, mine, size, score_scale(size));
}

// dk and dv of 32 rows of a picture's head, and zeros as dq of those that do not ask: queries pass by in tiles.
template <int PARTS>
__device__ static void full_key_back(float* room, const float* qkv, const In* out, const float* logsum, const float* dout,
                                     In* dqkv, int block, int pictures, int tokens, int heads, int size, int asking) {
    int lane = threadIdx.x, warp = threadIdx.y, head = blockIdx.y, picture = blockIdx.z, width = heads * size;
    int pad = size + 4, first = block * TILE, own = first + warp * MINE, mine = min(MINE, tokens - own);
    float* k = room;
    float* v = k + TILE * pad;
    float* q = v + TILE * pad;
    float* g = q + TILE * pad;
    float* slopes = g + TILE * pad + warp * MINE * PAIRS;
    float* shares = slopes + 4 * MINE * PAIRS;
    float* deltas = g + TILE * pad + 8 * MINE * PAIRS;
    long long stride = 3LL * width, head_at = (long long)picture * tokens * stride + head * size;
    const float* rows = qkv + head_at;

    load_tile(k, rows + first * stride + width, stride, tokens - first, size, 1.0f);
    load_tile(v, rows + first * stride + 2 * width, stride, tokens - first, size, 1.0f);
    Sums<PARTS> dk = {}, dv = {};
    for (int start = 0; start < asking; start += TILE) {
        long long asked = (long long)picture * asking + start, at = asked * width + head * size;
        load_tile(q, rows + start * stride, stride, asking - start, size, score_scale(size));
        load_tile(g, dout + at, width, asking - start, size, 1.0f);
        __syncthreads();
        tile_deltas(deltas, g, out + at, width, asking - start, size);
        if (mine > 0) {
            bool there = start + lane < asking;
            float sum = there ? logsum[(long long)head * pictures * asking + asked + lane] : 0.0f;
            float s[MINE], dp[MINE], delta = delta_of(deltas, lane);
            tile_products(s, k + warp * MINE * pad, q, slopes, size);
            tile_products(dp, v + warp * MINE * pad, g, slopes, size);
#pragma unroll
            for (int i = 0; i < MINE; i++) {
                Pair pair = pair_back(s[i], dp[i], sum, delta);
                slopes[i * PAIRS + lane] = there ? to_product(pair.slope) : 0.0f;
                shares[i * PAIRS + lane] = there ? to_product(pair.share) : 0.0f;
            }
            __syncwarp();
            tile_sums(dk, slopes, q, size);
            tile_sums(dv, shares, g, size);
        }
        __syncthreads();
    }
    In* to = dqkv + head_at + own * stride;
    store_sums(to + width, stride, dk, mine, size, 1.0f);
    store_sums(to + 2 * width, stride, dv, mine, size, 1.0f);
    for (int i = 0; i < mine; i++)
        if (own + i >= asking)
            for (int d = lane; d < size; d += 32) to[i * stride + d] = to_in(0.0f);
}

// Registers are arrays of a fixed length. Two variants: heads of 64 are what most CLIPs have, and each more costs every user
// a second of compiling.
#define BY_PARTS(call)           \
    if (size <= 64) call(2);     \
    else call(4)

// qkv [pictures * tokens, 3W]; the first `asking` rows of each picture ask (all, or 1: the class row). out
// [pictures * asking, W]; logsum [heads, pictures * asking]. Online softmax over tiles of 32 keys, a warp has 8 queries. Grid
// (ceil(asking/32), heads, pictures). Dynamic shared memory: 4 * (96 * (size + 4) + 1152) bytes.
KERNEL attend_full(const float* qkv, In* out, float* logsum, int pictures, int tokens, int heads, int size, int asking) {
    SHARED(room);
#define FORWARD(parts) full_forward<parts>(room, qkv, out, logsum, pictures, tokens, heads, size, asking)
    BY_PARTS(FORWARD);
}

// The gradient of `attend_full`: all of dqkv. Grid (ceil(tokens/32) + ceil(asking/32), heads, pictures): blocks of keys first,
// then blocks of queries. Dynamic shared memory: 4 * (128 * (size + 4) + 2432) bytes.
KERNEL attend_full_back(const float* qkv, const In* out, const float* logsum, const float* dout, In* dqkv, int pictures,
                        int tokens, int heads, int size, int asking) {
    SHARED(room);
    int block = blockIdx.x, keys = (tokens + TILE - 1) / TILE;
#define KEYS(parts) full_key_back<parts>(room, qkv, out, logsum, dout, dqkv, block, pictures, tokens, heads, size, asking)
#define QUERIES(parts) \
    full_query_back<parts>(room, qkv, out, logsum, dout, dqkv, block - keys, pictures, tokens, heads, size, asking)
    if (block < keys) {
        BY_PARTS(KEYS);
    } else {
        BY_PARTS(QUERIES);
    }
}
