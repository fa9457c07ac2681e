// Patches and pooling against plain index arithmetic, their adjoints, and products over two levels of batches.
#include <array>
#include <vector>

#include "cases.hpp"
#include "check.hpp"
#include "cpu/cpu_backend.hpp"
#include "matrices.hpp"
#include "naive_blas.hpp"

namespace {

using namespace gnfast;
using cpu::CpuBackend;
using test::axis, test::Matrix, test::random, test::rounding;

// f(backend) with one and with three threads, on BLAS by plain loops.
template <class F>
void with_threads(F&& f) {
    test::use_naive_blas();
    const int before = cpu::num_threads();
    CpuBackend backend;
    for (const int threads : {1, 3}) {
        cpu::set_num_threads(threads);
        f(backend);
    }
    cpu::set_num_threads(before);
}

// The pixel of the image (channels, height, width) that a tap of a patch reads, -1 for padding.
index pixel(const Windows& w, index channel, index tap, index position) {
    index y = position / w.x.positions * w.y.stride + tap / w.x.kernel * w.y.dilation - w.y.before;
    index x = position % w.x.positions * w.x.stride + tap % w.x.kernel * w.x.dilation - w.x.before;
    if (w.circular) y = (y + 2 * w.y.size) % w.y.size, x = (x + 2 * w.x.size) % w.x.size;
    return y < 0 || x < 0 || y >= w.y.size || x >= w.x.size ? -1 : (channel * w.y.size + y) * w.x.size + x;
}

double inner(const Matrix<double>& a, const Matrix<double>& b) {
    double total = 0;
    for (index i = 0; i < a.rows; ++i)
        for (index j = 0; j < a.cols; ++j) total += a(i, j) * b(i, j);
    return total;
}

TEST("images: patches are the pixels under the window") {
    with_threads([](CpuBackend& backend) {
        for (const Windows& w : test::window_cases()) {
            const index m = 3;
            const Matrix<double> images = random<double>(m, w.inputs(), 1);
            Matrix<double> patches(m * w.patch(), w.positions());
            backend.gather_patches(images.read(), w, patches.view());
            for (index i = 0; i < m; ++i)
                for (index row = 0; row < w.patch(); ++row)
                    for (index q = 0; q < w.positions(); ++q) {
                        const index from = pixel(w, row / w.taps(), row % w.taps(), q);
                        CHECK(patches(i * w.patch() + row, q) == (from < 0 ? 0 : images(i, from)));
                    }
            CHECK(patches.gaps_untouched());
        }
    });
}

TEST("images: patches are scattered by the adjoint, onto zeros or onto what is there") {
    with_threads([](CpuBackend& backend) {
        for (const Windows& w : test::window_cases()) {
            const index m = 2;
            const Matrix<double> images = random<double>(m, w.inputs(), 1), cotangents = random<double>(m * w.patch(), w.positions(), 2);
            Matrix<double> patches(m * w.patch(), w.positions()), out(m, w.inputs());
            backend.gather_patches(images.read(), w, patches.view());
            backend.scatter_patches(cotangents.read(), w, 0.0, out.view());
            CHECK_NEAR(inner(out, images), inner(cotangents, patches), rounding<double>(w.patch() * w.positions()));
            const Matrix<double> once = out;
            backend.scatter_patches(cotangents.read(), w, 1.0, out.view());
            for (index i = 0; i < m; ++i)
                for (index j = 0; j < w.inputs(); ++j) CHECK_NEAR(out(i, j), 2 * once(i, j), rounding<double>(w.patch()));
            CHECK(out.gaps_untouched());
        }
    });
}

TEST("images: pooling by averages and its adjoint") {
    with_threads([](CpuBackend& backend) {
        for (const Windows& w : test::window_cases()) {
            if (w.circular) continue;
            const index m = 2, outputs = w.channels * w.positions();
            const Matrix<double> images = random<double>(m, w.inputs(), 1), g = random<double>(m, outputs, 2);
            Matrix<double> out(m, outputs), back(m, w.inputs());
            backend.pool_average(images.read(), w, 0.0, out.view());
            for (index i = 0; i < m; ++i)
                for (index j = 0; j < outputs; ++j) {
                    double total = 0;
                    for (index tap = 0; tap < w.taps(); ++tap) {
                        const index from = pixel(w, j / w.positions(), tap, j % w.positions());
                        total += from < 0 ? 0 : images(i, from);
                    }
                    CHECK_NEAR(out(i, j), total / double(w.taps()), rounding<double>(w.taps()));
                }
            backend.spread_average(g.read(), w, 0.0, back.view());
            CHECK_NEAR(inner(back, images), inner(g, out), rounding<double>(m * outputs));
            CHECK(out.gaps_untouched() && back.gaps_untouched());
        }
    });
}

TEST("images: of equal maxima the first is chosen, and both directions go by it") {
    with_threads([](CpuBackend& backend) {
        const Windows w{2, axis(5, 3, 2, 1, 1, 1), axis(4, 2, 1, 1, 0, 0), false};
        const index n = 3, s = 2, outputs = w.channels * w.positions();
        Matrix<double> images = random<double>(n, w.inputs(), 1);
        for (index j = 0; j < w.inputs(); ++j) images(0, j) = 1;
        Matrix<double> out(n, outputs);
        std::vector<std::int32_t> where(static_cast<std::size_t>(n * outputs));
        const View<std::int32_t> chosen(where.data(), n, outputs);
        backend.pool_max(images.read(), w, out.view(), chosen);
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < outputs; ++j) {
                index first = -1;
                for (index tap = 0; tap < w.taps(); ++tap) {
                    const index from = pixel(w, j / w.positions(), tap, j % w.positions());
                    if (from >= 0 && (first < 0 || images(i, from) > images(i, first))) first = from;
                }
                CHECK(chosen.row(i)[j] == first && out(i, j) == images(i, first));
            }
        const Matrix<double> t = random<double>(s * n, w.inputs(), 2), g = random<double>(s * n, outputs, 3);
        Matrix<double> pushed = random<double>(s * n, outputs, 4), pulled(s * n, w.inputs());
        const Matrix<double> before = pushed;
        const auto read = [&](const Matrix<double>& of) { return Batch<const double>(of.read().row_range(0, n), s, n * of.stride); };
        const auto write = [&](Matrix<double>& of) { return Batch<double>(of.view().row_range(0, n), s, n * of.stride); };
        backend.gather_chosen(View<const std::int32_t>(chosen), read(t), 1.0, write(pushed));
        backend.scatter_chosen(View<const std::int32_t>(chosen), w, read(g), 0.0, write(pulled));
        for (index at = 0; at < s * n; ++at)
            for (index j = 0; j < outputs; ++j) CHECK_NEAR(pushed(at, j), before(at, j) + t(at, chosen.row(at % n)[j]), 1e-14);
        CHECK_NEAR(inner(pulled, t), inner(g, pushed) - inner(g, before), rounding<double>(s * n * outputs));
    });
}

TEST("images: channels are added to and summed over all positions") {
    with_threads([](CpuBackend& backend) {
        const index n = 3, s = 2, channels = 4, positions = 7;
        const Matrix<double> b = random<double>(s, channels, 1);
        Matrix<double> x = random<double>(s * n, channels * positions, 2), sums(s * n, channels);
        const Matrix<double> before = x;
        backend.add_channels(Batch<double>(x.view().row_range(0, n), s, n * x.stride),
                             Batch<const double>(b.read().row_range(0, 1), s, b.stride));
        backend.sum_channels(Batch<const double>(x.read().row_range(0, n), s, n * x.stride),
                             Batch<double>(sums.view().row_range(0, n), s, n * sums.stride));
        for (index at = 0; at < s * n; ++at)
            for (index c = 0; c < channels; ++c) {
                double total = 0;
                for (index q = 0; q < positions; ++q) {
                    CHECK(x(at, c * positions + q) == before(at, c * positions + q) + b(at / n, c));
                    total += x(at, c * positions + q);
                }
                CHECK_NEAR(sums(at, c), total, rounding<double>(positions));
            }
        CHECK(x.gaps_untouched() && sums.gaps_untouched());
    });
}

TEST("images: products over a grid, one for each member or summed") {
    with_threads([](CpuBackend& backend) {
        for (const auto& [outer, members, rows] : {std::array<index, 3>{1, 1, 3}, {2, 5, 40}, {1, 4, 90}, {7, 3, 33}}) {
            const index cols = 21, length = 35;
            const Matrix<double> a = random<double>(outer * members * rows, length, 1), b = random<double>(members * cols, length, 2);
            const Grid<const double> x(a.read().row_range(0, rows), outer, members * rows * a.stride, members, rows * a.stride);
            const Grid<const double> y(b.read().row_range(0, cols), outer, 0, members, cols * b.stride);
            for (const bool sum : {false, true}) {
                const index kept = sum ? 1 : members;
                Matrix<double> out = random<double>(outer * kept * rows, cols, 3);
                const Matrix<double> before = out;
                backend.gemm_grid(
                    Op::none, Op::transpose, 1.0, x, y, 1.0,
                    Grid<double>(out.view().row_range(0, rows), outer, kept * rows * out.stride, members, sum ? 0 : rows * out.stride));
                for (index j = 0; j < outer; ++j)
                    for (index i = 0; i < kept; ++i)
                        for (index r = 0; r < rows; ++r)
                            for (index c = 0; c < cols; ++c) {
                                double expected = before((j * kept + i) * rows + r, c);
                                for (index m = i; m < (sum ? members : i + 1); ++m)
                                    for (index q = 0; q < length; ++q) expected += a((j * members + m) * rows + r, q) * b(m * cols + c, q);
                                CHECK_NEAR(out((j * kept + i) * rows + r, c), expected, rounding<double>(length * members));
                            }
                CHECK(out.gaps_untouched());
            }
        }
    });
}

}  // namespace
