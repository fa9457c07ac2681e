// The verbs of normalisation against sums over groups as they are defined, for batches and for parts of samples.
#include <cmath>
#include <vector>

#include "cases.hpp"
#include "check.hpp"
#include "cpu/cpu_backend.hpp"
#include "matrices.hpp"

namespace {

using namespace gnfast;
using cpu::CpuBackend;
using test::Matrix, test::random, test::rounding;

index channel_of(const NormShape& shape, index q) { return q / shape.inner % shape.channels; }

// Whether value q of sample i and value p of sample j are normalised together.
bool together(const NormShape& shape, index i, index q, index j, index p) {
    return shape.group ? i == j && q / shape.group == p / shape.group : channel_of(shape, q) == channel_of(shape, p);
}

template <class F>
void with_threads(F&& f) {
    const int before = cpu::num_threads();
    CpuBackend backend;
    for (const int threads : {1, 3}) {
        cpu::set_num_threads(threads);
        for (const NormShape& shape : test::norm_cases())
            for (const index n : {1, 6}) f(backend, shape, n);
    }
    cpu::set_num_threads(before);
}

template <class T>
void check_derivative(CpuBackend& backend, const NormShape& shape, index n) {
    const double eps = 0.1;
    const auto x = random<T>(n, shape.width, 1);
    Matrix<T> normalized(n, shape.width), inverse(shape.group ? n : 1, shape.groups());
    backend.normalize(x.read(), shape, eps, normalized.view(), inverse.view());

    const auto of_group = [&](index i, index q, auto&& value) {
        double total = 0, count = 0;
        for (index j = 0; j < n; ++j)
            for (index p = 0; p < shape.width; ++p)
                if (together(shape, i, q, j, p)) total += value(j, p), count += 1;
        return total / count;
    };
    const auto gain = random<T>(1, shape.channels, 2);
    const index s = 2;
    const auto in = random<T>(s * n, shape.width, 3);
    const Batch<const T> tangents(View<const T>(in.read().data, n, shape.width, in.read().stride), s, n * in.read().stride);
    for (const bool gain_first : {false, true})
        for (const T beta : {T(0), T(1)})
            for (const bool with_gain : {false, true}) {
                Matrix<T> out = beta == T(0) ? Matrix<T>(s * n, shape.width) : random<T>(s * n, shape.width, 4);
                const Matrix<T> before = out;
                const View<T> first(out.view().data, n, shape.width, out.view().stride);
                backend.normalize_derivative(normalized.read(), inverse.read(), shape, with_gain ? gain.read() : View<const T>(),
                                             gain_first, tangents, beta, Batch<T>(first, s, n * first.stride));
                for (index row = 0; row < s * n; ++row)
                    for (index q = 0; q < shape.width; ++q) {
                        const index j = row / n, i = row % n;
                        const auto factor = [&](index p) { return with_gain ? double(gain(0, channel_of(shape, p))) : 1.0; };
                        const auto t = [&](index a, index p) { return double(in(j * n + a, p)) * (gain_first ? factor(p) : 1.0); };
                        const double mean = of_group(i, q, [&](index a, index p) { return double(x(a, p)); });
                        const double variance = of_group(i, q, [&](index a, index p) { return std::pow(double(x(a, p)) - mean, 2); });
                        const double scale = 1 / std::sqrt(variance + eps), value = (double(x(i, q)) - mean) * scale;
                        const double slope = of_group(i, q, [&](index a, index p) { return (double(x(a, p)) - mean) * scale * t(a, p); });
                        double expected = scale * (t(i, q) - of_group(i, q, t) - value * slope) * (gain_first ? 1.0 : factor(q));
                        if (beta != T(0)) expected += double(before(row, q));
                        CHECK_NEAR(normalized(i, q), value, 10 * rounding<T>(1));
                        CHECK_NEAR(out(row, q), expected, 50 * rounding<T>(1));
                    }
                CHECK(out.gaps_untouched());
            }
}

TEST("norms: statistics and their derivative, with a gain before or after, added or not") {
    with_threads([](CpuBackend& backend, const NormShape& shape, index n) {
        if (shape.width > 50 && n > 1) return;  // sums over all pairs of values: small ones only, and n = 1 for many channels
        check_derivative<double>(backend, shape, n);
        check_derivative<float>(backend, shape, n);
    });
}

TEST("norms: sums over channels are the adjoint of steps by channels, for all samples and for each") {
    with_threads([](CpuBackend& backend, const NormShape& shape, index n) {
        const index s = 2, c = shape.channels;
        const auto x = random<double>(n, shape.width, 1), g = random<double>(s * n, shape.width, 2), v = random<double>(s, c, 3);
        const Batch<const double> all(View<const double>(g.read().data, n, shape.width, g.read().stride), s, n * g.read().stride);
        for (const bool with_x : {false, true}) {
            const View<const double> values = with_x ? x.read() : View<const double>();
            Matrix<double> moved(s * n, shape.width), total(s, c), apart(s * n, c);
            const Batch<const double> row(View<const double>(v.read().data, 1, c), s, v.read().stride), none(View<const double>(), 1, 0);
            const View<double> first(moved.view().data, n, shape.width, moved.view().stride);
            backend.affine_channels(Batch<const double>(values, s, 0), with_x ? row : none, with_x ? none : row, shape, 0.0,
                                    Batch<double>(first, s, n * first.stride));
            backend.sum_channels_of(all, values, shape, 0.0, Batch<double>(View<double>(total.view().data, 1, c), s, total.view().stride));
            backend.sum_channels_of(all, values, shape, 0.0,
                                    Batch<double>(View<double>(apart.view().data, n, c, apart.view().stride), s, n * apart.view().stride));
            for (index j = 0; j < s; ++j) {
                double left = 0, right = 0;
                for (index a = 0; a < c; ++a) {
                    double sum = 0;
                    for (index i = 0; i < n; ++i) sum += apart(j * n + i, a);
                    CHECK_NEAR(total(j, a), sum, 1e-12 * double(shape.width * n));
                    right += total(j, a) * v(j, a);
                }
                for (index i = 0; i < n; ++i)
                    for (index q = 0; q < shape.width; ++q) {
                        const double expected = v(j, channel_of(shape, q)) * (with_x ? x(i, q) : 1.0);
                        CHECK_NEAR(moved(j * n + i, q), expected, 1e-15);
                        left += moved(j * n + i, q) * g(j * n + i, q);
                    }
                CHECK_NEAR(left, right, 1e-12 * double(shape.width * n));
            }
            CHECK(moved.gaps_untouched() && total.gaps_untouched() && apart.gaps_untouched());
        }
    });
}

}  // namespace
