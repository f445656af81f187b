// Attention of packed texts, forward and backward. Behind `kernels.cu`, which has the rules and the types.
//
// Scores are products of queries and keys over the root of the head's size, in float32 whatever the precision of products.

struct alignas(4 * sizeof(In)) In4 { In x, y, z, w; };

// Below every score. Not infinity: the difference of two of them must be 0.
#define LOWEST -3.0e38f

__device__ static inline float warp_max(float v) {
    for (int step = 16; step > 0; step >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, step));
    return v;
}

__device__ static inline float4 load4(const float* at) { return *(const float4*)at; }

__device__ static inline float4 widen4(const In* at) {
    In4 v = *(const In4*)at;
    return make_float4(from_in(v.x), from_in(v.y), from_in(v.z), from_in(v.w));
}

__device__ static inline float dot4(float4 a, float4 b, float sum) {
    return sum + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

// Exact for heads of 16, 64 and 256.
__device__ static inline float score_scale(int size) { return 1.0f / sqrtf((float)size); }

// ---- Attention of packed texts: each query sees the rows of a list, its path ----
//
// For products of rows 8 lanes share a row, four numbers each at a time, so that a warp reads whole lines of memory: each
// lane leaves its part of the sum in a table, then a lane has a row and adds its 8 parts. For sums of rows a lane has a
// dimension.

// From one row's parts to the next: 9, for 32 lanes to read 32 banks.
#define PARTS_ROW 9
// A table of the parts of 32 rows, in lines of 32 numbers.
#define PARTS_LINES 9

__device__ static inline float sum_parts(const float* parts) {
    const float* own = parts + threadIdx.x * PARTS_ROW;
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < 8; part++) sum += own[part];
    return sum;
}

// qkv [R,3W] has queries, keys and values; query i is row query[i] and sees rows keys[offset[i]..offset[i+1]] (one at least,
// `longest` at most). out [queries,W]; logsum [heads,queries] is the log of the sum of the exponentials of the scores.
// A warp a query of one head, grid (ceil(queries/4), heads). Dynamic shared memory: 16 * (size + longest) bytes.
KERNEL attend_path(const float* qkv, const int* query, const int* offset, const int* keys, In* out, float* logsum, int queries,
                   int heads, int size, int longest) {
    SHARED(room);
    TABLE(tables, 4 * PARTS_LINES);
    int lane = threadIdx.x, warp = threadIdx.y, i = blockIdx.x * 4 + warp, head = blockIdx.y, width = heads * size;
    if (i >= queries) return;
    float* parts = tables[warp * PARTS_LINES];
    float* q = room + warp * size;
    float* p = room + 4 * size + warp * longest;
    long long stride = 3LL * width;
    const float* rows = qkv + (long long)head * size;
    const int* seen = keys + offset[i];
    int count = offset[i + 1] - offset[i];

    float scale = score_scale(size);
    for (int d = lane; d < size; d += 32) q[d] = rows[query[i] * stride + d] * scale;
    __syncwarp();
    float top = LOWEST;
    for (int from = 0; from < count; from += 32) {
        int end = min(32, count - from);
        for (int j = lane / 8; j < end; j += 4) {
            const float* k = rows + seen[from + j] * stride + width;
            float s = 0.0f;
#pragma unroll 2
            for (int d = lane % 8 * 4; d < size; d += 32) s = dot4(load4(q + d), load4(k + d), s);
            parts[j * PARTS_ROW + lane % 8] = s;
        }
        __syncwarp();
        if (lane < end) {
            float s = sum_parts(parts);
            p[from + lane] = s;
            top = fmaxf(top, s);
        }
        __syncwarp();
    }
    top = warp_max(top);
    float total = 0.0f;
    for (int j = lane; j < count; j += 32) {
        p[j] = expf(p[j] - top);
        total += p[j];
    }
    total = warp_sum(total);
    __syncwarp();
    float o[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int j = 0; j < count; j++) {
        const float* v = rows + seen[j] * stride + 2 * width;
#pragma unroll
        for (int t = 0; t < 4; t++)
            if (lane + 32 * t < size) o[t] += p[j] * v[lane + 32 * t];
    }
#pragma unroll
    for (int t = 0; t < 4; t++)
        if (lane + 32 * t < size) out[(long long)i * width + head * size + lane + 32 * t] = to_in(o[t] / total);
    if (lane == 0) logsum[(long long)head * queries + i] = top + logf(total);
}

// What a key's row gets back from one query, or a query's row from one key: the softmax's share of the pair, and that share's
// gradient times the score's, from two dot products of rows.
struct Pair { float share, slope; };
__device__ static inline Pair pair_back(float score, float dshare, float logsum, float delta) {
    Pair pair;
    pair.share = expf(score - logsum);
    pair.slope = pair.share * (dshare - delta);
    return pair;
}

// dq of query i, a warp.
__device__ static inline void path_query_back(float* room, float* parts, const float* qkv, const int* query,
        const int* offset, const int* keys, const In* out, const float* logsum, const float* dout, In* dqkv, int i, int head,
        int width, int size, int longest) {
    int lane = threadIdx.x, warp = threadIdx.y, count = offset[i + 1] - offset[i];
    float* q = room + warp * 2 * size;
    float* g = q + size;
    float* slopes = room + 8 * size + warp * longest;
    long long stride = 3LL * width, asked = query[i] * stride, at = (long long)i * width + head * size;
    const float* rows = qkv + (long long)head * size;
    const int* seen = keys + offset[i];

    float scale = score_scale(size), delta = 0.0f;
    for (int d = lane; d < size; d += 32) {
        q[d] = rows[asked + d] * scale;
        g[d] = dout[at + d];
        delta += g[d] * from_in(out[at + d]);
    }
    delta = warp_sum(delta);
    __syncwarp();
    float* more = parts + 32 * PARTS_ROW;
    for (int from = 0; from < count; from += 32) {
        int end = min(32, count - from);
        for (int j = lane / 8; j < end; j += 4) {
            const float* k = rows + seen[from + j] * stride + width;
            float s = 0.0f, dp = 0.0f;
#pragma unroll 2
            for (int d = lane % 8 * 4; d < size; d += 32) {
                s = dot4(load4(q + d), load4(k + d), s);
                dp = dot4(load4(g + d), load4(k + width + d), dp);
            }
            parts[j * PARTS_ROW + lane % 8] = s;
            more[j * PARTS_ROW + lane % 8] = dp;
        }
        __syncwarp();
        if (lane < end) slopes[from + lane] = pair_back(sum_parts(parts), sum_parts(more), logsum[i], delta).slope;
        __syncwarp();
    }
    float dq[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int j = 0; j < count; j++) {
        const float* k = rows + seen[j] * stride + width;
#pragma unroll
        for (int t = 0; t < 4; t++)
            if (lane + 32 * t < size) dq[t] += slopes[j] * k[lane + 32 * t];
    }
#pragma unroll
    for (int t = 0; t < 4; t++)
        if (lane + 32 * t < size) dqkv[asked + head * size + lane + 32 * t] = to_in(dq[t] * scale);
}

// Adds to dk and dv of one row (its `k` and `v` in shared memory) what `count` queries from seen[0] on give it, 32 at most.
__device__ static inline void path_pairs_back(float* dk, float* dv, const float* k, const float* v, float* pairs, float* parts,
        const float* rows, const int* query, const int* seen, const In* out, const float* logsum, const float* dout, int count,
        int head, int width, int size) {
    int lane = threadIdx.x;
    float *shares = pairs, *slopes = pairs + 32, *more = parts + 32 * PARTS_ROW, scale = score_scale(size);
    long long stride = 3LL * width;
    for (int j = lane / 8; j < count; j += 4) {
        const float* q = rows + query[seen[j]] * stride;
        long long at = (long long)seen[j] * width + head * size;
        float s = 0.0f, above = 0.0f;                     // dout . value less dout . out, in one
#pragma unroll 2
        for (int d = lane % 8 * 4; d < size; d += 32) {
            float4 a = load4(v + d), b = widen4(out + at + d);
            s = dot4(load4(q + d), load4(k + d), s);
            above = dot4(load4(dout + at + d), make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w), above);
        }
        parts[j * PARTS_ROW + lane % 8] = s;
        more[j * PARTS_ROW + lane % 8] = above;
    }
    __syncwarp();
    if (lane < count) {
        Pair pair = pair_back(sum_parts(parts) * scale, sum_parts(more), logsum[seen[lane]], 0.0f);
        shares[lane] = pair.share;
        slopes[lane] = pair.slope * scale;
    }
    __syncwarp();
    for (int j = 0; j < count; j++) {
        const float* q = rows + query[seen[j]] * stride;
        const float* g = dout + (long long)seen[j] * width + head * size;
#pragma unroll
        for (int t = 0; t < 4; t++)
            if (lane + 32 * t < size) {
                dk[t] += slopes[j] * q[lane + 32 * t];
                dv[t] += shares[j] * g[lane + 32 * t];
            }
    }
    __syncwarp();
}

// A row seen by this many queries has a warp, by more a block.
#define FEW 32

// dk and dv of row r, and zeros as its dq where it asks nothing, by a warp (`few`: r is seen by FEW queries at most) or by a
// block: then its warps take the queries 32 at a time in turn, and at last the four warps' sums are added in order.
__device__ static inline void path_key_back(float* room, float* parts, const float* qkv, const int* query, const int* asks,
        const int* seen_offset, const int* seen, const In* out, const float* logsum, const float* dout, In* dqkv, int r,
        bool few, int head, int width, int size) {
    int lane = threadIdx.x, warp = threadIdx.y;
    int start = few ? lane : warp * 32 + lane, step = few ? 32 : 128;
    float* k = few ? room + warp * 2 * size : room;
    float* v = k + size;
    float* sums = room + 2 * size;                        // [4][2][size], of a block
    float* pairs = room + 10 * size + warp * 64;
    long long own = r * (3LL * width) + head * size;
    const float* rows = qkv + (long long)head * size;
    for (int d = start; d < size; d += step) {
        k[d] = qkv[own + width + d];
        v[d] = qkv[own + 2 * width + d];
        if (asks[r] < 0) dqkv[own + d] = to_in(0.0f);
    }
    if (few) __syncwarp();
    else __syncthreads();
    float dk[4] = {0.0f, 0.0f, 0.0f, 0.0f}, dv[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    int end = seen_offset[r + 1];
    for (int from = seen_offset[r] + start - lane; from < end; from += step)
        path_pairs_back(dk, dv, k, v, pairs, parts, rows, query, seen + from, out, logsum, dout, min(32, end - from), head,
                        width, size);
    if (few) {
#pragma unroll
        for (int t = 0; t < 4; t++)
            if (lane + 32 * t < size) {
                dqkv[own + width + lane + 32 * t] = to_in(dk[t]);
                dqkv[own + 2 * width + lane + 32 * t] = to_in(dv[t]);
            }
        return;
    }
#pragma unroll
    for (int t = 0; t < 4; t++)
        if (lane + 32 * t < size) {
            sums[warp * 2 * size + lane + 32 * t] = dk[t];
            sums[warp * 2 * size + size + lane + 32 * t] = dv[t];
        }
    __syncthreads();
    for (int d = start; d < 2 * size; d += step) {
        float sum = sums[d] + sums[2 * size + d] + sums[4 * size + d] + sums[6 * size + d];
        dqkv[own + (d < size ? width + d : 2 * width + d - size)] = to_in(sum);
    }
}

// The gradient of `attend_path`: all of dqkv [R,3W]. Beside its arguments: asks[r] is the query that row r asks, or negative;
// row r is seen by queries seen[seen_offset[r]..seen_offset[r+1]]. Grid (R + ceil(queries/4), heads): first dk and dv, block r
// for row r if many queries see it (these stand first, and take longest) and, every fourth block, for the next four rows that
// few see; then a warp a query for dq. Dynamic shared memory: 4 * (10 * size + max(256, 4 * longest)) bytes.
KERNEL attend_path_back(const float* qkv, const int* query, const int* offset, const int* keys, const int* asks,
                        const int* seen_offset, const int* seen, const In* out, const float* logsum, const float* dout,
                        In* dqkv, int rows, int queries, int heads, int size, int longest) {
    SHARED(room);
    TABLE(tables, 8 * PARTS_LINES);
    int block = blockIdx.x, warp = threadIdx.y, head = blockIdx.y, width = heads * size, i = (block - rows) * 4 + warp;
    float* parts = tables[2 * warp * PARTS_LINES];
    const float* sums = logsum + (long long)head * queries;
    if (block >= rows) {
        if (i < queries)
            path_query_back(room, parts, qkv, query, offset, keys, out, sums, dout, dqkv, i, head, width, size, longest);
        return;
    }
    int row = block + warp;
    if (block % 4 == 0 && row < rows && seen_offset[row + 1] - seen_offset[row] <= FEW)
        path_key_back(room, parts, qkv, query, asks, seen_offset, seen, out, sums, dout, dqkv, row, true, head, width, size);
    if (seen_offset[block + 1] - seen_offset[block] <= FEW) return;
    __syncthreads();
    path_key_back(room, parts, qkv, query, asks, seen_offset, seen, out, sums, dout, dqkv, block, false, head, width, size);
}
