// Attention of packed texts and of pictures against float64, values and gradients.
#pragma once
#include "test_harness.h"

// Who sees whom: query i is row query[i] and sees rows keys[i]. Texts and pictures alike.
struct Sight {
    int rows = 0;
    std::vector<int> query;
    std::vector<std::vector<int>> keys;
    void ask(int row, std::vector<int> sees) {
        query.push_back(row);
        keys.push_back(std::move(sees));
    }
    int queries() const { return (int)query.size(); }
    int longest() const {
        size_t most = 0;
        for (auto& list : keys) most = std::max(most, list.size());
        return (int)most;
    }
};

// Values with the sums of absolute values that made them.
struct Attended { Doubles out, out_size, logsum, logsum_size; };
struct Gradient { Doubles value, size; };

static Attended attend(const Sight& sight, const Doubles& qkv, int heads, int size) {
    int width = heads * size, queries = sight.queries();
    double scale = 1.0 / sqrt((double)size);
    Attended all{Doubles((size_t)queries * width), Doubles((size_t)queries * width), Doubles((size_t)heads * queries),
                 Doubles((size_t)heads * queries)};
    for (int head = 0; head < heads; head++)
        for (int i = 0; i < queries; i++) {
            auto& keys = sight.keys[i];
            const double* q = &qkv[(size_t)sight.query[i] * 3 * width + head * size];
            Doubles scores(keys.size());
            double top = -1e300, most = 0.0, total = 0.0;
            for (size_t j = 0; j < keys.size(); j++) {
                const double* k = &qkv[(size_t)keys[j] * 3 * width + width + head * size];
                double sum = 0.0, sizes = 0.0;
                for (int d = 0; d < size; d++) sum += q[d] * k[d], sizes += fabs(q[d] * k[d]);
                scores[j] = sum * scale;
                top = std::max(top, scores[j]);
                most = std::max(most, sizes * scale);
            }
            for (double& s : scores) total += s = exp(s - top);
            for (size_t j = 0; j < keys.size(); j++) {
                const double* v = &qkv[(size_t)keys[j] * 3 * width + 2 * width + head * size];
                for (int d = 0; d < size; d++) {
                    size_t at = (size_t)i * width + head * size + d;
                    all.out[at] += scores[j] / total * v[d];
                    // An error of a score changes its share by as much.
                    all.out_size[at] += scores[j] / total * fabs(v[d]) * (1.0 + most);
                }
            }
            all.logsum[(size_t)head * queries + i] = top + log(total);
            all.logsum_size[(size_t)head * queries + i] = 1.0 + most;
        }
    return all;
}

// Of sum(dout * out) at qkv. `out` is what the kernel is given: rounded, where In is half.
static Gradient attend_back(const Sight& sight, const Doubles& qkv, const Doubles& out, const Doubles& dout, int heads,
                            int size) {
    int width = heads * size;
    double scale = 1.0 / sqrt((double)size);
    Gradient all{Doubles(qkv.size()), Doubles(qkv.size())};
    Attended forward = attend(sight, qkv, heads, size);
    for (int head = 0; head < heads; head++)
        for (int i = 0; i < sight.queries(); i++) {
            size_t own = (size_t)sight.query[i] * 3 * width + head * size, at = (size_t)i * width + head * size;
            double delta = 0.0, delta_size = 0.0;
            for (int d = 0; d < size; d++) delta += dout[at + d] * out[at + d], delta_size += fabs(dout[at + d] * out[at + d]);
            for (int row : sight.keys[i]) {
                size_t key = (size_t)row * 3 * width + width + head * size, value = key + width;
                double s = 0.0, s_size = 0.0, dp = 0.0, dp_size = 0.0;
                for (int d = 0; d < size; d++) {
                    s += qkv[own + d] * qkv[key + d] * scale, s_size += fabs(qkv[own + d] * qkv[key + d]) * scale;
                    dp += dout[at + d] * qkv[value + d], dp_size += fabs(dout[at + d] * qkv[value + d]);
                }
                double p = exp(s - forward.logsum[(size_t)head * sight.queries() + i]), ds = p * (dp - delta) * scale;
                double ds_size = p * (dp_size + delta_size) * scale * (1.0 + s_size);
                for (int d = 0; d < size; d++) {
                    all.value[own + d] += ds * qkv[key + d], all.size[own + d] += ds_size * fabs(qkv[key + d]);
                    all.value[key + d] += ds * qkv[own + d], all.size[key + d] += ds_size * fabs(qkv[own + d]);
                    all.value[value + d] += p * dout[at + d], all.size[value + d] += p * fabs(dout[at + d]) * (1.0 + s_size);
                }
            }
        }
    return all;
}

// Central differences of the float64 forward, for small shapes.
static Doubles differences(const Sight& sight, Doubles qkv, const Doubles& dout, int heads, int size) {
    const double step = 1e-5;
    Doubles slopes(qkv.size());
    auto loss = [&] {
        Doubles out = attend(sight, qkv, heads, size).out;
        double sum = 0.0;
        for (size_t i = 0; i < out.size(); i++) sum += out[i] * dout[i];
        return sum;
    };
    for (size_t i = 0; i < qkv.size(); i++) {
        double middle = qkv[i];
        qkv[i] = middle + step;
        double above = loss();
        qkv[i] = middle - step;
        slopes[i] = (above - loss()) / (2.0 * step);
        qkv[i] = middle;
    }
    return slopes;
}

// Float32's, and that of pictures on tensor cores, whose inputs are rounded to 11 bits.
static const double ATTENTION_BOUND = 2e-6, TENSOR_BOUND = 1e-3;

// Runs a forward and a backward and checks both; `run` launches them on the buffers.
template <class K, class Forward, class Backward>
void check_attention(const std::string& what, const Sight& sight, int heads, int size, double bound, Forward forward,
                     Backward backward) {
    typedef typename K::In In;
    size_t width = heads * size, queries = sight.queries();
    Buffer<float> qkv(normals<float>(sight.rows * 3 * width)), dout(normals<float>(queries * width)), logsum(heads * queries);
    Buffer<In> out(queries * width), dqkv(sight.rows * 3 * width);
    forward(qkv.at, out.at, logsum.at);
    Attended want = attend(sight, qkv.values(), heads, size);
    check_in<K>(what, out.values(), want.out, want.out_size, bound);
    check(what + ", log-sums", logsum.values(), want.logsum, want.logsum_size, bound);
    backward(qkv.at, out.at, logsum.at, dout.at, dqkv.at);
    Gradient gradient = attend_back(sight, qkv.values(), out.values(), dout.values(), heads, size);
    check_in<K>(what + ", gradient", dqkv.values(), gradient.value, gradient.size, bound);
    // Half's rounded output is in its delta: only float can be held against differences.
    if (K::rounding == 0.0 && bound == ATTENTION_BOUND && qkv.count <= 1000)
        check(what + ", differences", dqkv.values(), differences(sight, qkv.values(), dout.values(), heads, size), gradient.size,
              bound);
}

template <class K> void check_path(const std::string& shape, const Sight& sight, int heads, int size) {
    std::vector<int> offset{0}, keys, asks(sight.rows, -1), seen_offset{0}, seen;
    std::vector<std::vector<int>> seers(sight.rows);
    for (int i = 0; i < sight.queries(); i++) {
        keys.insert(keys.end(), sight.keys[i].begin(), sight.keys[i].end());
        offset.push_back((int)keys.size());
        asks[sight.query[i]] = i;
        for (int row : sight.keys[i]) seers[row].push_back(i);
    }
    for (auto& list : seers) {
        seen.insert(seen.end(), list.begin(), list.end());
        seen_offset.push_back((int)seen.size());
    }
    Buffer<int> b_query(sight.query), b_offset(offset), b_keys(keys), b_asks(asks), b_seen_offset(seen_offset), b_seen(seen);
    int rows = sight.rows, queries = sight.queries(), longest = sight.longest();
    const dim3 block{32, 4};
    check_attention<K>(
        label<K>("attend_path", shape + text({{" heads", heads}, {"size", size}})), sight, heads, size, ATTENTION_BOUND,
        [&](float* qkv, auto* out, float* logsum) {
            launch("attend_path", {up(queries, 4), (unsigned)heads}, block, 16 * (size + longest), [&] {
                K::attend_path(qkv, b_query.at, b_offset.at, b_keys.at, out, logsum, queries, heads, size, longest);
            });
        },
        [&](float* qkv, auto* out, float* logsum, float* dout, auto* dqkv) {
            launch("attend_path_back", {rows + up(queries, 4), (unsigned)heads}, block,
                   4 * (10 * size + std::max(256, 4 * longest)), [&] {
                K::attend_path_back(qkv, b_query.at, b_offset.at, b_keys.at, b_asks.at, b_seen_offset.at, b_seen.at, out, logsum,
                                    dout, dqkv, rows, queries, heads, size, longest);
            });
        });
}

template <class K> void check_full(int pictures, int tokens, int heads, int size, int asking) {
    Sight sight;
    sight.rows = pictures * tokens;
    for (int picture = 0; picture < pictures; picture++) {
        std::vector<int> all;
        for (int token = 0; token < tokens; token++) all.push_back(picture * tokens + token);
        for (int token = 0; token < asking; token++) sight.ask(picture * tokens + token, all);
    }
    unsigned askers = up(asking, 32), seen = up(tokens, 32);
    const std::string shape = text({{"pictures", pictures}, {"tokens", tokens}, {"asking", asking}, {"heads", heads}});
    check_attention<K>(
        label<K>("attend_full", shape + text({{" size", size}})), sight, heads, size, K::tensor ? TENSOR_BOUND : ATTENTION_BOUND,
        [&](float* qkv, auto* out, float* logsum) {
            launch("attend_full", {askers, (unsigned)heads, (unsigned)pictures}, {32, 4}, 4 * (96 * (size + 4) + 1152),
                   [&] { K::attend_full(qkv, out, logsum, pictures, tokens, heads, size, asking); });
        },
        [&](float* qkv, auto* out, float* logsum, float* dout, auto* dqkv) {
            launch("attend_full_back", {askers + seen, (unsigned)heads, (unsigned)pictures}, {32, 4},
                   4 * (128 * (size + 4) + 2432),
                   [&] { K::attend_full_back(qkv, out, logsum, dout, dqkv, pictures, tokens, heads, size, asking); });
        });
}

// A tree: row r follows parent[r] (or nothing) and sees its path and itself. All ask, or only the rows nothing follows.
static Sight tree(const std::vector<int>& parent, bool ends_only) {
    Sight sight;
    sight.rows = (int)parent.size();
    std::vector<bool> followed(parent.size());
    for (int before : parent)
        if (before >= 0) followed[before] = true;
    for (int row = 0; row < sight.rows; row++) {
        if (ends_only && followed[row]) continue;
        std::vector<int> path;
        for (int at = row; at >= 0; at = parent[at]) path.insert(path.begin(), at);
        sight.ask(row, path);
    }
    return sight;
}

// `shared` rows at the start, then a branch of 1 to `most` rows for each class.
static std::vector<int> branches(int shared, int classes, int most) {
    std::vector<int> parent;
    for (int row = 0; row < shared; row++) parent.push_back(row - 1);
    for (int c = 0; c < classes; c++) {
        int before = shared - 1;
        for (int length = 1 + below(most); length > 0; length--) {
            parent.push_back(before);
            before = (int)parent.size() - 1;
        }
    }
    return parent;
}

template <class K> void check_paths() {
    check_path<K>("one row", tree({-1}, false), 2, 8);
    check_path<K>("a small tree", tree({-1, 0, 1, 1, 3, 0}, false), 2, 16);
    check_path<K>("the ends of a small tree", tree({-1, 0, 1, 1, 3, 0}, true), 2, 16);
    for (int size : {32, 64, 80}) check_path<K>("17 shared rows, 100 classes", tree(branches(17, 100, 5), false), 2, size);
    check_path<K>("ends, 17 shared rows, 100 classes", tree(branches(17, 100, 5), true), 2, 64);
    std::vector<int> sequences;
    for (int row = 0; row < 3 * 77; row++) sequences.push_back(row % 77 == 0 ? -1 : row - 1);
    for (int size : {32, 64, 128}) check_path<K>("three sequences of 77", tree(sequences, false), 1, size);
    std::vector<int> deep{-1};
    while (deep.size() < 300) deep.push_back((int)deep.size() - 1 - below(3) % (int)deep.size());
    check_path<K>("a deep tree", tree(deep, false), 1, 24);
    check_path<K>("1 shared row, 3000 queries", tree(branches(1, 2999, 1), false), 1, 32);
    Sight any;                                            // in no order, some rows unseen, some asking nothing
    any.rows = 90;
    for (int i = 0; i < 50; i++) {
        std::vector<int> list;
        for (int row = 0; row < any.rows - 10; row++)
            if (below(3) == 0) list.push_back(row);
        any.ask(i * 37 % 90, list);
    }
    for (int size : {40, 104}) check_path<K>("lists in no order", any, 3, size);
}

template <class K> void check_pictures() {
    check_full<K>(1, 1, 1, 8, 1);
    check_full<K>(2, 3, 2, 16, 3);
    check_full<K>(2, 5, 1, 8, 1);
    for (int tokens : {31, 32, 33, 50, 65}) check_full<K>(2, tokens, 1, 24, tokens);
    for (int size : {32, 64, 80, 96, 128}) check_full<K>(1, 197, 1, size, 197), check_full<K>(1, 197, 2, size, 1);
    check_full<K>(2, 197, 2, 64, 197);
    check_full<K>(1, 257, 2, 64, 257);
    check_full<K>(2, 257, 2, 64, 1);
    check_full<K>(1, 577, 1, 64, 577);
    check_full<K>(1, 577, 1, 64, 1);
}
