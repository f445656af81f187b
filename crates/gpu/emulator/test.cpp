// Every kernel, in float and half, on the emulator against plain float64 loops. Prints a line a check, exits with 1 on a miss.
#include "test_attention.h"
#include "test_harness.h"

static const double ROW_BOUND = 1e-6;

// ---- Norms ----

template <class K> void check_norm(int rows, int width) {
    typedef typename K::In In;
    const double epsilon = 1e-5;
    const std::string shape = text({{"rows", rows}, {"width", width}});
    size_t count = (size_t)rows * width;
    Buffer<float> x(normals<float>(count, 1.5, 3.0)), gain(normals<float>(width, 0.3, 1.0)), bias(normals<float>(width));
    Buffer<float> stream(count), stats(2 * rows), dgain(width), dbias(width);
    Buffer<float> dy(normals<float>(count)), held(normals<float>(count));
    Buffer<In> input(count), copy(count);
    const dim3 grid{up(rows, 4)}, block{32, 4};
    const float e = (float)epsilon;

    Doubles y(count), y_size(count), moments(2 * rows), moments_size(2 * rows), dx(count), dx_size(count);
    Doubles dg(width), dg_size(width), db(width), db_size(width);
    for (int r = 0; r < rows; r++) {
        const float *in = x.at + (size_t)r * width, *up_ = dy.at + (size_t)r * width;
        double mean = 0.0, mean_size = 0.0, variance = 0.0, sum = 0.0, along = 0.0, sizes = 0.0;
        for (int i = 0; i < width; i++) mean += in[i] / (double)width, mean_size += fabs(in[i]) / width;
        for (int i = 0; i < width; i++) variance += (in[i] - mean) * (in[i] - mean) / width;
        double scale = 1.0 / sqrt(variance + epsilon);
        // An error of the mean, as large as float32's step of it, is one of every centred number.
        double slack = 1.0 + mean_size * scale;
        for (int i = 0; i < width; i++) {
            double away = (in[i] - mean) * scale, g = (double)up_[i] * gain.at[i];
            y[(size_t)r * width + i] = away * gain.at[i] + bias.at[i];
            y_size[(size_t)r * width + i] = (fabs(away) + slack) * fabs(gain.at[i]) + fabs(bias.at[i]);
            sum += g / width, along += g * away / width, sizes += fabs(g) * (1.0 + fabs(away)) / width;
            dg[i] += up_[i] * away, dg_size[i] += fabs(up_[i]) * (fabs(away) + slack);
            db[i] += up_[i], db_size[i] += fabs(up_[i]);
        }
        for (int i = 0; i < width; i++) {
            double away = (in[i] - mean) * scale, g = (double)up_[i] * gain.at[i];
            dx[(size_t)r * width + i] = scale * (g - sum - away * along);
            dx_size[(size_t)r * width + i] = scale * (fabs(g) + sizes * (1.0 + fabs(away))) * slack;
        }
        moments[2 * r] = mean, moments[2 * r + 1] = scale;
        moments_size[2 * r] = mean_size, moments_size[2 * r + 1] = scale * slack;
    }

    auto forward = [&](float* stream_at, In* input_at, float* stats_at) {
        launch("norm_rows", grid, block, 0,
               [&] { K::norm_rows(x.at, gain.at, bias.at, stream_at, input_at, stats_at, rows, width, e); });
    };
    forward(stream.at, input.at, stats.at);
    check(label<K>("norm_rows", shape + ", stream"), stream.values(), y, y_size, ROW_BOUND);
    check_in<K>(label<K>("norm_rows", shape + ", input"), input.values(), y, y_size, ROW_BOUND);
    check(label<K>("norm_rows", shape + ", stats"), stats.values(), moments, moments_size, ROW_BOUND);
    Buffer<float> alone(count);
    Buffer<In> only(count);
    forward(alone.at, nullptr, nullptr);
    forward(nullptr, only.at, nullptr);
    check(label<K>("norm_rows", shape + ", stream alone"), alone.values(), stream.values(), y_size, 0.0);
    check(label<K>("norm_rows", shape + ", input alone"), only.values(), input.values(), y_size, 0.0);

    Doubles sums = dx, sums_size = dx_size;
    for (size_t i = 0; i < count; i++) sums[i] += held.at[i], sums_size[i] += fabs(held.at[i]);
    launch("norm_back", grid, block, 0, [&] { K::norm_back(x.at, gain.at, stats.at, dy.at, held.at, copy.at, 1, rows, width); });
    check(label<K>("norm_back", shape + ", added"), held.values(), sums, sums_size, ROW_BOUND);
    check_in<K>(label<K>("norm_back", shape + ", copy"), copy.values(), sums, sums_size, ROW_BOUND);
    launch("norm_back", grid, block, 0, [&] { K::norm_back(x.at, gain.at, stats.at, dy.at, alone.at, nullptr, 0, rows, width); });
    check(label<K>("norm_back", shape + ", alone"), alone.values(), dx, dx_size, ROW_BOUND);
    launch("norm_weights_back", {up(width, 32)}, {32, 8}, 0,
           [&] { K::norm_weights_back(x.at, stats.at, dy.at, dgain.at, dbias.at, rows, width); });
    check(label<K>("norm_weights_back", shape + ", gain"), dgain.values(), dg, dg_size, ROW_BOUND);
    check(label<K>("norm_weights_back", shape + ", bias"), dbias.values(), db, db_size, ROW_BOUND);
    if (count > 200) return;

    // Central differences of sum(dy * norm(x)) at x.
    Doubles slopes(count), point = x.values();
    auto loss = [&] {
        double sum = 0.0;
        for (int r = 0; r < rows; r++) {
            double mean = 0.0, variance = 0.0;
            for (int i = 0; i < width; i++) mean += point[(size_t)r * width + i] / width;
            for (int i = 0; i < width; i++) variance += pow(point[(size_t)r * width + i] - mean, 2) / width;
            for (int i = 0; i < width; i++)
                sum += dy.at[(size_t)r * width + i] *
                       ((point[(size_t)r * width + i] - mean) / sqrt(variance + epsilon) * gain.at[i] + bias.at[i]);
        }
        return sum;
    };
    for (size_t i = 0; i < count; i++) {
        double middle = point[i];
        point[i] = middle + 1e-5;
        double above = loss();
        point[i] = middle - 1e-5;
        slopes[i] = (above - loss()) / 2e-5;
        point[i] = middle;
    }
    check(label<K>("norm_back", shape + ", differences"), alone.values(), slopes, dx_size, ROW_BOUND);
}

// ---- Activations and sums ----

static double activation(double x, int kind) {
    if (kind == 0) return x / (1.0 + exp(-1.702 * x));
    if (kind == 1) return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

template <class K> void check_activation(int count, int kind) {
    typedef typename K::In In;
    Buffer<float> h(normals<float>(count, 3.0)), dy(normals<float>(count));
    for (int i = 0; i < count; i += 10) h.at[i] = (float)(i % 400 - 200) / 4.0f;       // far out on both sides
    Buffer<In> out(count), dx(count);
    Doubles y(count), y_size(count), slope(count), slope_size(count);
    for (int i = 0; i < count; i++) {
        double x = h.at[i], step = 1e-5;
        y[i] = activation(x, kind), y_size[i] = fabs(x) + 1e-30;
        slope[i] = dy.at[i] * (activation(x + step, kind) - activation(x - step, kind)) / (2.0 * step);
        slope_size[i] = fabs(dy.at[i]) * (1.0 + fabs(x));
    }
    const dim3 grid{up(count, 256)}, block{256};
    const std::string shape = text({{"kind", kind}, {"numbers", count}});
    launch("activate", grid, block, 0, [&] { K::activate(h.at, out.at, count, kind); });
    check_in<K>(label<K>("activate", shape), out.values(), y, y_size, ROW_BOUND);
    launch("activate_back", grid, block, 0, [&] { K::activate_back(h.at, dy.at, dx.at, count, kind); });
    check_in<K>(label<K>("activate_back", shape), dx.values(), slope, slope_size, ROW_BOUND);
    if constexpr (std::is_same_v<In, float>) {
        launch("activate_back", grid, block, 0, [&] { K::activate_back(h.at, dy.at, dy.at, count, kind); });
        check(label<K>("activate_back", shape + ", in place"), dy.values(), dx.values(), slope_size, 0.0);
    }
}

template <class K> void check_sums(int count) {
    typedef typename K::In In;
    Buffer<float> x(normals<float>(count)), y(normals<float>(count)), product(count);
    Buffer<In> input(count), copy(count);
    Doubles sum(count), scaled(count), times(count);
    for (int i = 0; i < count; i++) {
        sum[i] = (double)x.at[i] + y.at[i], scaled[i] = 0.25 * x.at[i], times[i] = 3.0 * x.at[i] * y.at[i];
    }
    const dim3 grid{up(count, 256)}, block{256};
    const std::string shape = text({{"numbers", count}});
    launch("to_input", grid, block, 0, [&] { K::to_input(x.at, input.at, 0.25f, count); });
    check_in<K>(label<K>("to_input", shape), input.values(), scaled, absolute(scaled), ROW_BOUND);
    launch("from_input", grid, block, 0, [&] { K::from_input(input.at, product.at, count); });
    check(label<K>("from_input", shape), product.values(), input.values(), absolute(scaled), 0.0);
    launch("times", grid, block, 0, [&] { K::times(x.at, y.at, product.at, 3.0f, count); });
    check(label<K>("times", shape), product.values(), times, absolute(times), ROW_BOUND);
    launch("add", grid, block, 0, [&] { K::add(x.at, y.at, copy.at, count); });
    check(label<K>("add", shape), x.values(), sum, absolute(sum), ROW_BOUND);
    check_in<K>(label<K>("add", shape + ", copy"), copy.values(), sum, absolute(sum), ROW_BOUND);
    launch("add", grid, block, 0, [&] { K::add(x.at, y.at, nullptr, count); });
}

// ---- Prompts, gathered rows, pictures ----

// `lists` as the kernels take them: offsets, then all entries.
static std::pair<std::vector<int>, std::vector<int>> flat(const std::vector<std::vector<int>>& lists) {
    std::vector<int> offset{0}, all;
    for (auto& list : lists) {
        all.insert(all.end(), list.begin(), list.end());
        offset.push_back((int)all.size());
    }
    return {offset, all};
}

template <class K> void check_prompts(int rows, int width, int sources, float kept, float share, int every) {
    typedef typename K::In In;
    size_t count = (size_t)rows * width;
    Buffer<float> x(normals<float>(count)), prompt(normals<float>((size_t)sources * width)), out(count);
    Buffer<float> dy(normals<float>(count)), dprompt((size_t)sources * width);
    Buffer<In> copy(count);
    std::vector<int> source(rows, -1);
    std::vector<std::vector<int>> lists(sources);
    for (int r = 0; r < rows; r++)
        if (every == 1 || below(every) == 0) lists[source[r] = r < 3 ? 0 : below(sources)].push_back(r);
    Doubles put(count), back(count), dp((size_t)sources * width), dp_size((size_t)sources * width);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < width; i++) {
            size_t at = (size_t)r * width + i, from = (size_t)source[r] * width + i;
            copy.at[at] = (In)dy.at[at];
            put[at] = source[r] < 0 ? x.at[at] : (double)kept * x.at[at] + (double)share * prompt.at[from];
            back[at] = source[r] < 0 ? dy.at[at] : (double)kept * dy.at[at];
            if (source[r] >= 0) dp[from] += (double)share * dy.at[at], dp_size[from] += fabs(share * dy.at[at]);
        }
    Doubles put_size(count, 4.0);
    Buffer<int> b_source(source), offset(flat(lists).first), list(flat(lists).second);
    const std::string shape = text({{"rows", rows}, {"width", width}, {"sources", sources}, {"percent kept", (int)(100 * kept)}});
    const float* from = every == 1 && kept == 0.0f ? nullptr : x.at;
    launch("put_rows", {up(rows, 4)}, {32, 4}, 0,
           [&] { K::put_rows(from, prompt.at, b_source.at, out.at, kept, share, rows, width); });
    check(label<K>("put_rows", shape), out.values(), put, put_size, ROW_BOUND);
    const dim3 grid{(unsigned)sources, up(width, 32)}, block{32, 8};
    Doubles before = dy.values();
    launch("put_rows_back", grid, block, 0,
           [&] { K::put_rows_back(dy.at, copy.at, offset.at, list.at, dprompt.at, kept, share, sources, width); });
    check(label<K>("put_rows_back", shape + ", prompt"), dprompt.values(), dp, dp_size, ROW_BOUND);
    check(label<K>("put_rows_back", shape + ", rows"), dy.values(), back, absolute(back), ROW_BOUND);
    check_in<K>(label<K>("put_rows_back", shape + ", copy"), copy.values(), back, absolute(back), ROW_BOUND);
    std::copy(before.begin(), before.end(), dy.at);
    launch("put_rows_back", grid, block, 0,
           [&] { K::put_rows_back(dy.at, nullptr, offset.at, list.at, nullptr, kept, share, sources, width); });
    check(label<K>("put_rows_back", shape + ", rows alone"), dy.values(), back, absolute(back), ROW_BOUND);
}

template <class K> void check_gather(int rows, int taken, int width) {
    typedef typename K::In In;
    Buffer<float> x(normals<float>((size_t)rows * width)), out((size_t)taken * width), dy(normals<float>((size_t)taken * width)),
        dx(normals<float>((size_t)rows * width)), alone((size_t)rows * width);
    Buffer<In> copy((size_t)rows * width);
    std::vector<int> from(taken);
    std::vector<std::vector<int>> lists(rows);
    for (int r = 0; r < taken; r++) {
        from[r] = r == taken - 1 || below(5) ? below((rows + 1) / 2) : -1;             // some absent, some repeated, some unused
        if (from[r] >= 0) lists[from[r]].push_back(r);
    }
    Doubles want((size_t)taken * width), sum((size_t)rows * width), size(sum.size()), added = dx.values();
    for (int r = 0; r < taken; r++)
        for (int i = 0; i < width && from[r] >= 0; i++) {
            want[(size_t)r * width + i] = x.at[(size_t)from[r] * width + i];
            sum[(size_t)from[r] * width + i] += dy.at[(size_t)r * width + i];
            size[(size_t)from[r] * width + i] += fabs(dy.at[(size_t)r * width + i]);
        }
    for (size_t i = 0; i < sum.size(); i++) size[i] += fabs(added[i]), added[i] += sum[i];
    Buffer<int> b_from(from), offset(flat(lists).first), list(flat(lists).second);
    const std::string shape = text({{"rows", rows}, {"taken", taken}, {"width", width}});
    launch("gather", {up(taken, 4)}, {32, 4}, 0, [&] { K::gather(x.at, b_from.at, out.at, taken, width); });
    check(label<K>("gather", shape), out.values(), want, absolute(want), 0.0);
    const dim3 grid{up(rows, 4)}, block{32, 4};
    launch("gather_back", grid, block, 0, [&] { K::gather_back(dy.at, offset.at, list.at, alone.at, nullptr, 0, rows, width); });
    check(label<K>("gather_back", shape + ", alone"), alone.values(), sum, size, ROW_BOUND);
    launch("gather_back", grid, block, 0, [&] { K::gather_back(dy.at, offset.at, list.at, dx.at, copy.at, 1, rows, width); });
    check(label<K>("gather_back", shape + ", added"), dx.values(), added, size, ROW_BOUND);
    check_in<K>(label<K>("gather_back", shape + ", copy"), copy.values(), added, size, ROW_BOUND);
}

template <class K> void check_patches(int pictures, int grid, int patch) {
    int side = grid * patch;
    size_t count = (size_t)pictures * 3 * side * side;
    Buffer<float> pixels(normals<float>(count));
    Buffer<typename K::In> out(count);
    Doubles want;
    for (int picture = 0; picture < pictures; picture++)
        for (int row = 0; row < grid; row++)
            for (int column = 0; column < grid; column++)
                for (int channel = 0; channel < 3; channel++)
                    for (int y = 0; y < patch; y++)
                        for (int x = 0; x < patch; x++)
                            want.push_back(pixels.at[((size_t)(picture * 3 + channel) * side + row * patch + y) * side +
                                                     column * patch + x]);
    launch("patches", {up(count, 256)}, {256}, 0, [&] { K::patches(pixels.at, out.at, pictures, grid, patch); });
    check_in<K>(label<K>("patches", text({{"pictures", pictures}, {"grid", grid}, {"patch", patch}})), out.values(), want,
                absolute(want), ROW_BOUND);
}

template <class K> void check_embedding(int pictures, int count, bool with_class, int extra, int width) {
    int lead = with_class, length = lead + count + extra;
    Buffer<float> patches(normals<float>((size_t)pictures * count * width)), classes(normals<float>(width)),
        positions(normals<float>((size_t)(lead + count) * width)), out((size_t)pictures * length * width);
    Doubles want, sizes;
    for (int picture = 0; picture < pictures; picture++)
        for (int token = 0; token < length; token++)
            for (int i = 0; i < width; i++) {
                double place = token < lead + count ? positions.at[token * width + i] : 0.0, own = 0.0;
                if (token < lead) own = classes.at[i];
                else if (token < lead + count) own = patches.at[(size_t)(picture * count + token - lead) * width + i];
                want.push_back(place + own), sizes.push_back(fabs(place) + fabs(own));
            }
    launch("embed_pictures", {up((long long)pictures * length, 4)}, {32, 4}, 0, [&] {
        K::embed_pictures(patches.at, with_class ? classes.at : nullptr, positions.at, out.at, pictures, count, extra, width);
    });
    const std::string shape = text({{"pictures", pictures}, {"patches", count}, {"class", with_class}, {"extra", extra}});
    check(label<K>("embed_pictures", shape), out.values(), want, sizes, ROW_BOUND);
}

template <class K> void check_all() {
    for (auto [rows, width] : {std::pair(1, 32), {1, 7}, {3, 50}, {4, 512}, {129, 77}, {33, 768}}) check_norm<K>(rows, width);
    for (int kind : {0, 1, 2})
        for (int count : {1, 255, 3001}) check_activation<K>(count, kind);
    for (int count : {1, 256, 1000}) check_sums<K>(count);
    check_prompts<K>(1, 32, 1, 0.0f, 1.0f, 1);
    check_prompts<K>(60, 50, 4, 0.0f, 1.0f, 1);
    check_prompts<K>(60, 50, 4, 0.75f, 0.25f, 3);
    check_prompts<K>(60, 50, 7, 1.0f, 1.0f, 3);
    check_prompts<K>(3000, 33, 2, 0.0f, 1.0f, 2);
    check_gather<K>(1, 1, 33);
    check_gather<K>(40, 90, 50);
    check_gather<K>(90, 10, 512);
    check_patches<K>(1, 1, 1), check_patches<K>(3, 7, 3), check_patches<K>(2, 7, 32), check_patches<K>(1, 14, 16);
    check_embedding<K>(1, 1, true, 0, 32), check_embedding<K>(2, 49, true, 4, 50), check_embedding<K>(3, 49, false, 2, 77);
    check_paths<K>();
    check_pictures<K>();
}

// ---- The null driver's products ----

static void check_product(int m, int n, int k, bool turn_a, bool turn_b, int type, int batches) {
    using products::Matrix;
    auto matrix = [&](int rows, int columns, int type) {
        return Matrix{type, rows, columns, rows + 3, (int64_t)(rows + 3) * columns + 5, batches};
    };
    products::Product product;
    product.a = turn_a ? matrix(k, m, type) : matrix(m, k, type);
    product.b = turn_b ? matrix(n, k, type) : matrix(k, n, type);
    product.c = product.d = matrix(m, n, products::FLOAT);
    product.turn_a = turn_a, product.turn_b = turn_b, product.alpha = 1.5f, product.beta = 0.5f;
    auto a = normals<float>(product.a.step * batches), b = normals<float>(product.b.step * batches);
    auto c = normals<float>(product.c.step * batches), bias = normals<float>(m), d = c;
    product.bias = bias.data();
    std::vector<Half> half_a(a.begin(), a.end()), half_b(b.begin(), b.end());
    if (type == products::HALF_FLOAT) a.assign(half_a.begin(), half_a.end()), b.assign(half_b.begin(), half_b.end());
    const void *from_a = a.data(), *from_b = b.data();
    if (type == products::HALF_FLOAT) from_a = half_a.data(), from_b = half_b.data();
    products::multiply(product, from_a, from_b, c.data(), d.data());
    Doubles want(c.begin(), c.end()), sizes = absolute(want);
    for (int batch = 0; batch < batches; batch++)
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++) {
                double sum = 0.0, size = 0.0;
                for (int p = 0; p < k; p++) {
                    double x = a[batch * product.a.step + (turn_a ? i * product.a.lead + p : p * product.a.lead + i)];
                    double y = b[batch * product.b.step + (turn_b ? p * product.b.lead + j : j * product.b.lead + p)];
                    sum += 1.5 * x * y, size += fabs(1.5 * x * y);
                }
                size_t at = batch * product.c.step + j * product.c.lead + i;
                want[at] = sum + 0.5 * c[at] + bias[i], sizes[at] += size + fabs(bias[i]);
            }
    const std::string shape = text({{"m", m}, {"n", n}, {"k", k}, {"turn a", turn_a}, {"turn b", turn_b}, {"type", type}});
    check("product " + shape, Doubles(d.begin(), d.end()), want, sizes, ROW_BOUND);
}

int main() {
    auto start = std::chrono::steady_clock::now();
    for (int type : {products::FLOAT, products::HALF_FLOAT})
        for (int turned = 0; turned < 4; turned++)
            check_product(37, 29, 65, turned & 1, turned & 2, type, 1), check_product(16, 4, 8, turned & 1, turned & 2, type, 3);
    check_product(1, 1, 1, false, false, products::FLOAT, 1);
    check_all<Full>();
    check_all<Halves>();
    check_pictures<Tensors>();            // all else is as in float
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    printf("%d checks, %d misses, %.1f s\n", checks, misses, seconds);
    return misses > 0;
}
