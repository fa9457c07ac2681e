// The CPU's verbs against plain loops: cuts between threads and tiles, strides, triangles that must not be read.
#include <algorithm>

#include "check.hpp"
#include "cpu/cpu_backend.hpp"
#include "matrices.hpp"
#include "naive_blas.hpp"

namespace {

using namespace gnfast;
using cpu::CpuBackend;
using test::Matrix, test::Naive, test::random, test::rounding;

static_assert(Backend<CpuBackend>);
static_assert(!Backend<int>);

// f(backend) with one and with three threads, on BLAS by plain loops.
template <class F>
void with_threads(F&& f) {
    test::use_naive_blas();
    CHECK(cpu::routines_complete());
    const int before = cpu::num_threads();
    CpuBackend backend;
    for (const int threads : {1, 3}) {
        cpu::set_num_threads(threads);
        f(backend);
    }
    cpu::set_num_threads(before);
}

template <class T>
double entry(const Matrix<T>& m, Op op, index i, index j) {
    return op == Op::none ? m(i, j) : m(j, i);
}

template <class T>
void check_gemm(CpuBackend& backend, index m, index n, index inner, T alpha, T beta) {
    for (const Op op_a : {Op::none, Op::transpose})
        for (const Op op_b : {Op::none, Op::transpose}) {
            const auto a = op_a == Op::none ? random<T>(m, inner, 1) : random<T>(inner, m, 1);
            const auto b = op_b == Op::none ? random<T>(inner, n, 2) : random<T>(n, inner, 2);
            Matrix<T> out = beta == T(0) ? Matrix<T>(m, n) : random<T>(m, n, 3);  // NaN must not be read for beta 0
            const Matrix<T> before = out;
            backend.gemm(op_a, op_b, alpha, a.read(), b.read(), beta, out.view());
            for (index i = 0; i < m; ++i)
                for (index j = 0; j < n; ++j) {
                    double expected = 0;
                    for (index q = 0; q < inner; ++q) expected += entry(a, op_a, i, q) * entry(b, op_b, q, j);
                    expected = double(alpha) * expected + (beta == T(0) ? 0 : double(beta) * before(i, j));
                    CHECK_NEAR(out(i, j), expected, 4 * rounding<T>(inner));
                }
            CHECK(out.gaps_untouched());
        }
}

TEST("backend: gemm, cut by rows, by columns, by the inner length, and with few rows") {
    with_threads([](CpuBackend& backend) {
        for (const auto& [m, n, inner] :
             {std::array<index, 3>{1, 1, 1}, {3, 5, 7}, {71, 40, 45}, {33, 90, 67}, {2, 3, 5001}, {1, 1, 4097}}) {
            check_gemm<double>(backend, m, n, inner, 1, 0);
            check_gemm<double>(backend, m, n, inner, -0.5, 2);
            check_gemm<float>(backend, m, n, inner, 1, 1);
        }
        for (const index few : {1, 5, 16, 17})
            for (const double beta : {0.0, 1.0}) {
                check_gemm<double>(backend, few, 131, 37, 1, beta);
                check_gemm<double>(backend, 131, 140, few, 1, beta);
                check_gemm<float>(backend, few, 300, 141, 1, float(beta));
            }
    });
}

TEST("backend: gemm_batch, members whole and cut, one operand for all") {
    with_threads([](CpuBackend& backend) {
        for (const index count : {1, 2, 3, 7, 24}) {
            const index m = 41, n = 27, inner = 53;
            const Matrix<double> a = random<double>(count * m, inner, 1, 0), b = random<double>(inner, n, 2);
            Matrix<double> out(count * m, n, 0);
            backend.gemm_batch(Op::none, Op::none, 1.0, Batch<const double>({a.values.data(), m, inner}, count, m * inner),
                               Batch<const double>(b.read(), count, 0), 0.0, Batch<double>({out.values.data(), m, n}, count, m * n));
            for (index i = 0; i < count * m; ++i)
                for (index j = 0; j < n; ++j) {
                    double expected = 0;
                    for (index q = 0; q < inner; ++q) expected += a(i, q) * b(q, j);
                    CHECK_NEAR(out(i, j), expected, rounding<double>(inner));
                }
        }
    });
}

// Positive definite and well conditioned, only the lower triangle: NaN above.
Matrix<double> definite(index size) {
    const Matrix<double> a = random<double>(size, size, 5);
    Matrix<double> out(size, size);
    for (index i = 0; i < size; ++i)
        for (index j = 0; j <= i; ++j) {
            double total = i == j ? 1 : 0;
            for (index q = 0; q < size; ++q) total += a(i, q) * a(j, q) / double(size);
            out(i, j) = total;
        }
    return out;
}

double symmetric(const Matrix<double>& lower, index i, index j) { return lower(std::max(i, j), std::min(i, j)); }

TEST("backend: syrk fills both triangles") {
    with_threads([](CpuBackend& backend) {
        for (const index size : {1, 63, 130}) {
            const Matrix<double> a = random<double>(size, 37, 8);
            Matrix<double> out(size, size);
            backend.syrk(a.read(), out.view());
            for (index i = 0; i < size; ++i)
                for (index j = 0; j < size; ++j) {
                    double expected = 0;
                    for (index q = 0; q < 37; ++q) expected += a(i, q) * a(j, q);
                    CHECK_NEAR(out(i, j), expected, rounding<double>(37));
                }
            CHECK(out.gaps_untouched());
        }
    });
}

TEST("backend: symm_lower reads one triangle, in tiles") {
    with_threads([](CpuBackend& backend) {
        for (const index size : {1, 100, 256, 300})
            for (const index s : {1, 3, 17}) {
                const Matrix<double> lower = definite(size), v = random<double>(s, size, 6);
                Matrix<double> out(s, size);
                backend.symm_lower(lower.read(), v.read(), out.view());
                for (index row = 0; row < s; ++row)
                    for (index j = 0; j < size; ++j) {
                        double expected = 0;
                        for (index i = 0; i < size; ++i) expected += v(row, i) * symmetric(lower, i, j);
                        CHECK_NEAR(out(row, j), expected, 4 * rounding<double>(size));
                    }
                CHECK(out.gaps_untouched());
            }
    });
}

TEST("backend: cholesky by panels, and solves with many and with few vectors") {
    with_threads([](CpuBackend& backend) {
        for (const index size : {1, 65, 128, 130, 421}) {
            const Matrix<double> original = definite(size);
            Matrix<double> lower = original;
            CHECK(backend.cholesky(lower.view()) == 0);
            for (index i = 0; i < size; i += 7)
                for (index j = 0; j <= i; j += 5) {
                    double product = 0;
                    for (index q = 0; q <= j; ++q) product += lower(i, q) * lower(j, q);
                    CHECK_NEAR(product, original(i, j), rounding<double>(size));
                }
            for (const index s : {1, 5, 60}) {
                const Matrix<double> x = random<double>(s, size, 8);
                Matrix<double> rhs(s, size);
                for (index row = 0; row < s; ++row)
                    for (index j = 0; j < size; ++j) {
                        rhs(row, j) = 0;
                        for (index i = 0; i < size; ++i) rhs(row, j) += x(row, i) * symmetric(original, i, j);
                    }
                backend.cholesky_solve(lower.read(), rhs.view());
                for (index row = 0; row < s; ++row)
                    for (index j = 0; j < size; ++j) CHECK_NEAR(rhs(row, j), x(row, j), 20 * rounding<double>(size));
                CHECK(rhs.gaps_untouched());
            }
        }
    });
}

TEST("backend: cholesky names the pivot that fails") {
    with_threads([](CpuBackend& backend) {
        for (const index bad : {0, 5, 127, 128, 300}) {
            Matrix<double> lower = definite(310);
            lower(bad, bad) = -1;
            CHECK(backend.cholesky(lower.view()) == bad + 1);
        }
    });
}

TEST("backend: cholesky in wide panels, their diagonal blocks in narrower ones, and its failing pivot") {
    with_threads([](CpuBackend& backend) {
        // A sparse factor whose entries are exact in single precision.
        const index size = 1070;
        Matrix<float> lower(size, size), factor(size, size);
        for (index i = 0; i < size; ++i)
            for (index j = 0; j <= i; ++j) factor(i, j) = i == j ? 2.0f : (i - j == 1 || j == 0 || (i + j) % 211 == 0) ? 0.125f : 0.0f;
        for (index i = 0; i < size; ++i)
            for (index j = 0; j <= i; ++j) {
                float total = 0;
                for (index q = 0; q <= j; ++q) total += factor(i, q) * factor(j, q);
                lower(i, j) = total;
            }
        Matrix<float> bad = lower;
        CHECK(backend.cholesky(lower.view()) == 0);
        for (index i = 0; i < size; ++i)
            for (index j = 0; j <= i; ++j) CHECK_NEAR(lower(i, j), factor(i, j), 1e-4);
        CHECK(lower.gaps_untouched());
        bad(900, 900) = 0;  // in the last wide panel, not in its first narrow one
        CHECK(backend.cholesky(bad.view()) == 901);
    });
}

TEST("backend: large buffers use what was freed before, each of them its own") {
    const index size = (index(1) << 20) + 5;
    double* first = nullptr;
    {
        cpu::Buffer<double> a(size);
        first = a.data();
    }
    cpu::Buffer<double> b(size), c(size);
    CHECK(b.data() == first);
    CHECK(c.data() != first);
    b.data()[size - 1] = 1;
    c.data()[size - 1] = 2;
    CHECK(b.data()[size - 1] == 1);
    cpu::Buffer<double> moved = std::move(b);
    CHECK(moved.data() == first);
}

TEST("backend: small_eigh gives eigenvectors in rows, values ascending, also where divide and conquer gives up") {
    with_threads([](CpuBackend& backend) {
        const index size = 9;
        const Matrix<double> original = definite(size);
        std::vector<double> a(size * size), w;
        for (index i = 0; i < size; ++i)
            for (index j = 0; j < size; ++j) a[static_cast<std::size_t>(i * size + j)] = symmetric(original, i, j);
        for (auto* routine : {&Naive<double>::syevd, &Naive<double>::syevd_that_fails}) {
            cpu::Blas<double>::syevd = routine;
            std::vector<double> y = a;
            backend.small_eigh(y, size, w);
            cpu::Blas<double>::syevd = &Naive<double>::syevd;
            CHECK(std::is_sorted(w.begin(), w.end()));
            for (index i = 0; i < size; ++i)
                for (index j = 0; j < size; ++j) {
                    double product = 0;
                    for (index q = 0; q < size; ++q) product += symmetric(original, j, q) * y[static_cast<std::size_t>(i * size + q)];
                    CHECK_NEAR(product, w[static_cast<std::size_t>(i)] * y[static_cast<std::size_t>(i * size + j)], 1e-13);
                }
        }
    });
}

TEST("backend: gram_lower is a sum of products of two Grams, tile by tile, and leaves the other triangle alone") {
    with_threads([](CpuBackend& backend) {
        for (const auto& [n, r] : {std::array<index, 2>{1, 1}, {5, 3}, {211, 1}, {90, 5}}) {
            const Matrix<double> inputs[2] = {random<double>(n, 7, 1), random<double>(n, 4, 2)};
            const Matrix<double> rows[2] = {random<double>(n * r, 3, 3), random<double>(n * r, 6, 4)};
            const std::vector<GramTerm<double>> terms{{inputs[0].read(), rows[0].read(), true}, {inputs[1].read(), rows[1].read(), false}};
            Matrix<double> out(n * r, n * r);
            const index per = CpuBackend::gram_tile_samples(n, r);
            for (index first = 0; first < n; first += per)
                backend.gram_lower(std::span<const GramTerm<double>>(terms), r, out.view(), first, std::min(n, first + per));
            const auto dot = [](const Matrix<double>& m, index i, index j) {
                double total = 0;
                for (index q = 0; q < m.cols; ++q) total += m(i, q) * m(j, q);
                return total;
            };
            for (index i = 0; i < n * r; ++i) {
                for (index j = 0; j <= i; ++j) {
                    const double expected =
                        (dot(inputs[0], i / r, j / r) + 1) * dot(rows[0], i, j) + dot(inputs[1], i / r, j / r) * dot(rows[1], i, j);
                    CHECK_NEAR(out(i, j), expected, 20 * rounding<double>(20));
                }
                for (index j = i + 1; j < n * r; ++j) CHECK(std::isnan(out(i, j)) || i / r / per == j / r / per);
            }
            CHECK(out.gaps_untouched());
        }
    });
}

TEST("backend: gram_lower with shared factors is that of the rows that these make") {
    with_threads([](CpuBackend& backend) {
        for (const auto& [n, r] : {std::array<index, 2>{5, 3}, {92, 5}, {301, 2}}) {  // 92: a last tile with more rows than a whole one
            const index m = 6;
            const Matrix<double> inputs[2] = {random<double>(n, 7, 1), random<double>(n, 4, 2)};
            const Matrix<double> factor[2] = {random<double>(r, m, 3), random<double>(r, m, 4)}, derivative = random<double>(n, m, 5);
            Matrix<double> rows[2] = {Matrix<double>(n * r, m), Matrix<double>(n * r, m)};
            for (index i = 0; i < n * r; ++i)
                for (index q = 0; q < m; ++q) {
                    rows[0](i, q) = factor[0](i % r, q) * derivative(i / r, q);
                    rows[1](i, q) = factor[1](i % r, q);
                }
            std::vector<GramTerm<double>> terms{{inputs[0].read(), rows[0].read(), true}, {inputs[1].read(), rows[1].read(), false}};
            Matrix<double> expected(n * r, n * r), out(n * r, n * r);
            backend.gram_lower(std::span<const GramTerm<double>>(terms), r, expected.view(), 0, n);
            terms[0].factor = factor[0].read();
            terms[0].derivative = derivative.read();
            terms[1].factor = factor[1].read();
            backend.gram_lower(std::span<const GramTerm<double>>(terms), r, out.view(), 0, n);
            for (index i = 0; i < n * r; ++i)
                for (index j = 0; j <= i; ++j) CHECK_NEAR(out(i, j), expected(i, j), 20 * rounding<double>(20));
            CHECK(out.gaps_untouched());
        }
    });
}

TEST("backend: pointwise verbs on strided views and batches") {
    with_threads([](CpuBackend& backend) {
        const index n = 37, m = 501, s = 3;  // long enough to be cut
        const Matrix<double> d = random<double>(n, m, 1), z = random<double>(n, m, 2), row = random<double>(1, m, 3);
        const Matrix<double> x = random<double>(s * n, m, 4);
        const auto batch = [&](Matrix<double>& of) { return Batch<double>(of.view().row_range(0, n), s, n * of.stride); };
        Matrix<double> product = x, grouped = x, shifted = x, sum = x, value(n, m), derivative(n, m), turned(m, n), copied(n, m),
                       flat(n, m);
        backend.multiply_rows(batch(product), d.read());
        backend.multiply_row_groups(grouped.view(), d.read(), s);
        backend.add_row(batch(shifted), Batch<const double>(row.read(), s, 0));
        backend.add_product(d.read(), z.read(), sum.view().row_range(0, n));
        backend.apply(pointwise::Tanh{}, z.read(), value.view(), derivative.view());
        backend.transpose(Batch<const double>(z.read(), 1, 0), Batch<double>(turned.view(), 1, 0));
        backend.copy(z.read(), copied.view());
        backend.fill(flat.view(), 2.5);
        for (index i = 0; i < s * n; ++i)
            for (index j = 0; j < m; ++j) {
                CHECK(product(i, j) == x(i, j) * d(i % n, j));
                CHECK(grouped(i, j) == x(i, j) * d(i / s, j));
                CHECK(shifted(i, j) == x(i, j) + row(0, j));
                if (i < n) {
                    CHECK_NEAR(sum(i, j), x(i, j) + d(i, j) * z(i, j), rounding<double>(1));
                    CHECK_NEAR(value(i, j), std::tanh(z(i, j)), 5e-16);
                    CHECK_NEAR(derivative(i, j), 1 - std::tanh(z(i, j)) * std::tanh(z(i, j)), 1e-15);
                    CHECK(turned(j, i) == z(i, j) && copied(i, j) == z(i, j) && flat(i, j) == 2.5);
                }
            }
        for (const Matrix<double>* out : {&product, &grouped, &shifted, &sum, &value, &derivative, &turned, &copied, &flat})
            CHECK(out->gaps_untouched());
    });
}

TEST("backend: sums over rows, dots, diagonals") {
    with_threads([](CpuBackend& backend) {
        const index n = 19, m = 23, s = 4;
        const Matrix<double> x = random<double>(s * n, m, 1), y = random<double>(s * n, m, 2);
        for (const double beta : {0.0, 1.0}) {
            Matrix<double> out = beta == 0 ? Matrix<double>(s, m) : random<double>(s, m, 3);
            const Matrix<double> before = out;
            backend.sum_rows(Batch<const double>(x.read().row_range(0, n), s, n * x.stride), beta,
                             Batch<double>(out.view().row_range(0, 1), s, out.stride));
            for (index j = 0; j < s; ++j)
                for (index q = 0; q < m; ++q) {
                    double expected = beta == 0 ? 0 : before(j, q);
                    for (index i = 0; i < n; ++i) expected += x(j * n + i, q);
                    CHECK_NEAR(out(j, q), expected, rounding<double>(n));
                }
        }
        std::vector<double> dots;
        backend.row_dots(x.read(), y.read(), dots);
        for (index i = 0; i < s * n; ++i) {
            double expected = 0;
            for (index q = 0; q < m; ++q) expected += x(i, q) * y(i, q);
            CHECK_NEAR(dots[static_cast<std::size_t>(i)], expected, rounding<double>(m));
        }
        Matrix<double> wide = x;
        backend.add_diagonal(wide.view(), 2.0);
        for (index i = 0; i < s * n; ++i)
            for (index q = 0; q < m; ++q) CHECK(wide(i, q) == x(i, q) + (i == q ? 2 : 0));
    });
}

TEST("backend: random matrices do not depend on threads, strides or blocks") {
    Matrix<double> first(50, 333), second(50, 333, 17), rows(50, 333);
    bool again = false;
    with_threads([&](CpuBackend& backend) {
        Matrix<double>& out = again ? second : first;
        backend.fill_normal(out.view(), 5, 6, 0.5);
        CHECK(out.gaps_untouched());
        again = true;
    });
    for (index i = 0; i < 50; ++i) {
        cpu::kernels::normal_row(5, 6, static_cast<std::uint64_t>(i), 0, 0.5, rows.view().row(i), 333);
        for (index j = 0; j < 333; ++j) CHECK(first(i, j) == second(i, j) && first(i, j) == rows(i, j));
    }
}

template <class T>
void check_combine_rows(CpuBackend& backend) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const auto x = random<T>(5, 71, 1);
    Matrix<T> out = random<T>(5, 71, 2);
    const Matrix<T> before = out;
    // A factor of zero reads nothing, so that NaN does not come through.
    Matrix<T> holes = x;
    for (index q = 0; q < 71; ++q) holes(1, q) = out(2, q) = out(3, q) = T(nan);
    const std::vector<double> alphas{2, 0, -3, 0, 0.5}, betas{1, -2, 0, 0, 0.25};
    backend.combine_rows(std::span<const double>(alphas), holes.read(), std::span<const double>(betas), out.view());
    for (index i = 0; i < 5; ++i)
        for (index q = 0; q < 71; ++q) {
            const auto at = static_cast<std::size_t>(i);
            const double expected = (alphas[at] == 0 ? 0 : alphas[at] * x(i, q)) + (betas[at] == 0 ? 0 : betas[at] * before(i, q));
            CHECK_NEAR(out(i, q), expected, rounding<T>(4));
        }
    CHECK(out.gaps_untouched());
}

TEST("backend: rows combined by factors of their own") {
    with_threads([](CpuBackend& backend) {
        check_combine_rows<float>(backend);
        check_combine_rows<double>(backend);
    });
}

TEST("backend: signs are fair, and do not depend on threads, precision or where a row ends") {
    Matrix<double> first(40, 1001), second(40, 1001, 17);
    Matrix<float> single(40, 300);
    bool again = false;
    with_threads([&](CpuBackend& backend) {
        Matrix<double>& out = again ? second : first;
        backend.fill_signs(out.view(), 5, 6);
        CHECK(out.gaps_untouched());
        backend.fill_signs(single.view(), 5, 6);
        again = true;
    });
    double total = 0;
    for (index i = 0; i < 40; ++i)
        for (index j = 0; j < 1001; ++j) {
            CHECK(std::abs(first(i, j)) == 1 && first(i, j) == second(i, j));
            if (j < 300) CHECK(single(i, j) == float(first(i, j)));
            total += first(i, j);
        }
    CHECK(std::abs(total) < 5 * std::sqrt(40 * 1001.0));  // five standard deviations
}

}  // namespace
