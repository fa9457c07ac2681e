// The packed factored product against plain loops: every remainder of tiles, panels, slices and blocks, with registers of both widths.
#include <algorithm>

#include "check.hpp"
#include "cpu/factored.hpp"
#include "cpu/packed.hpp"
#include "cpu/panel_loops.hpp"
#include "matrices.hpp"
#include "naive_blas.hpp"

namespace {

using namespace gnfast;
using namespace gnfast::cpu;
using test::Matrix, test::random, test::rounding;

struct Case {
    index samples, fan_in, fan_out, r, vectors;
    bool bias;
};
const Case CASES[] = {{1, 1, 1, 1, 1, true},     {37, 29, 41, 3, 5, false}, {70, 300, 13, 2, 9, true},
                      {600, 33, 20, 2, 7, true}, {530, 17, 5, 1, 1, false}, {1100, 8, 9, 4, 3, true}};

// u_ic = sum_o B_ico (A dW^T + db)_io and dW = (sum_c u_c B_c)^T A, db its column sums: sums of numbers of order one.
template <class T>
struct Expected {
    Matrix<double> u, out;

    Expected(const Case& c, const Matrix<T>& a, const Matrix<T>& b, const Matrix<T>& v)
        : u(c.vectors, c.samples * c.r), out(c.vectors, c.fan_out * (c.fan_in + 1)) {
        const index tail = c.fan_out * c.fan_in;
        for (index j = 0; j < c.vectors; ++j) {
            for (index o = 0; o < c.fan_out * (c.fan_in + 1); ++o) out(j, o) = 0;
            for (index i = 0; i < c.samples; ++i) {
                for (index q = 0; q < c.r; ++q) u(j, i * c.r + q) = 0;
                for (index o = 0; o < c.fan_out; ++o) {
                    double t = c.bias ? double(v(j, tail + o)) : 0.0;
                    for (index k = 0; k < c.fan_in; ++k) t += double(a(i, k)) * double(v(j, o * c.fan_in + k));
                    for (index q = 0; q < c.r; ++q) u(j, i * c.r + q) += t * double(b(i * c.r + q, o));
                }
                for (index o = 0; o < c.fan_out; ++o) {
                    double s = 0;
                    for (index q = 0; q < c.r; ++q) s += u(j, i * c.r + q) * double(b(i * c.r + q, o));
                    for (index k = 0; k < c.fan_in; ++k) out(j, o * c.fan_in + k) += s * double(a(i, k));
                    out(j, tail + o) += s;
                }
            }
        }
    }
};

// Sums of squares of what entries may reach: terms of u are products of two random numbers, of out of three more.
template <class T>
double allowed(const Case& c) {
    const double u = std::sqrt(double(c.fan_in + 1) * double(c.fan_out)), s = u * std::sqrt(double(c.r));
    return rounding<T>(8) * 10 * std::max(1.0, s * std::sqrt(double(c.samples))) * std::sqrt(double(c.fan_in + c.samples));
}

template <class T, int Bytes>
void check_loops() {
    constexpr index width = 2 * panels::lanes<T, Bytes>;
    for (const Case& c : CASES) {
        const Matrix<T> a = random<T>(c.samples, c.fan_in, 1), b = random<T>(c.samples * c.r, c.fan_out, 2);
        const Matrix<T> v = random<T>(c.vectors, c.fan_out * (c.fan_in + 1), 3, 5);
        const Expected<T> expected(c, a, b, v);
        const index n = ceil_div(c.samples, width), m = ceil_div(c.fan_in, width);
        const auto room = [](index size) { return std::vector<T>(static_cast<std::size_t>(size)); };
        std::vector<T> by_sample = room(n * c.fan_in * width), by_column = room(m * c.samples * width),
                       rows = room(n * c.fan_out * c.r * width);
        std::vector<T> u = room(n * c.vectors * c.r * width), work = room(panels::scratch<T>);
        const panels::Layer<T> layer{c.samples, c.fan_in, c.fan_out, c.r, width, by_sample.data(), by_column.data(), rows.data()};
        panels::pack_samples(a.read(), b.read(), layer, 0, n);
        panels::pack_columns(a.read(), layer, 0, m);
        Matrix<T> out(c.vectors, c.fan_out * (c.fan_in + 1));  // NaN: what is there must not be read
        const index tail = c.fan_out * c.fan_in, most = std::max<index>(1, panels::block_rows<T> / c.vectors);
        for (index first = 0; first < c.fan_out; first += most) {
            const index count = std::min(most, c.fan_out - first);
            const T* bias = c.bias ? v.values.data() + tail : nullptr;
            panels::project_all<T, Bytes>(layer, {first, count, c.vectors, v.values.data(), bias, v.stride}, u.data(), work.data());
        }
        for (index first = 0; first < c.fan_out; first += most) {
            const index count = std::min(most, c.fan_out - first);
            T* bias = c.bias ? out.values.data() + tail : nullptr;
            panels::gradient_all<T, Bytes>(layer, u.data(), {first, count, c.vectors, out.values.data(), bias, out.stride}, work.data());
        }
        for (index j = 0; j < c.vectors; ++j) {
            for (index i = 0; i < c.samples; ++i)
                for (index q = 0; q < c.r; ++q)
                    CHECK_NEAR(u[static_cast<std::size_t>(((i / width * c.vectors + j) * c.r + q) * width + i % width)],
                               expected.u(j, i * c.r + q), allowed<T>(c));
            for (index o = 0; o < tail + (c.bias ? c.fan_out : 0); ++o) CHECK_NEAR(out(j, o), expected.out(j, o), allowed<T>(c));
            for (index o = tail; !c.bias && o < tail + c.fan_out; ++o) CHECK(std::isnan(out(j, o)));
        }
        CHECK(out.gaps_untouched());
    }
}

TEST("panels: loops with registers of 32 bytes") {
    check_loops<float, 32>();
    check_loops<double, 32>();
}

TEST("panels: loops with registers of 64 bytes") {
    check_loops<float, 64>();
    check_loops<double, 64>();
}

template <class T>
void check_product() {
    if (panels::width<T>() == 0) return;
    for (const int threads : {1, 2, 3}) {
        set_num_threads(threads);
        for (const Case& c : CASES) {
            const Matrix<T> a = random<T>(c.samples, c.fan_in, 1), b = random<T>(c.samples * c.r, c.fan_out, 2);
            const Matrix<T> v = random<T>(c.vectors, c.fan_out * (c.fan_in + 1), 3, 5);
            const Expected<T> expected(c, a, b, v);
            const FactoredTerm<T> term{a.read(), b.read(), 0, c.bias};
            Factored<T> factored(std::span(&term, 1), c.r);
            Matrix<T> out(c.vectors, c.fan_out * (c.fan_in + 1)), again = out;
            CHECK(factored.product(v.read(), out.view()) && factored.product(v.read(), again.view()));
            for (index j = 0; j < c.vectors; ++j)
                for (index o = 0; o < c.fan_out * (c.fan_in + (c.bias ? 1 : 0)); ++o) {
                    CHECK_NEAR(out(j, o), expected.out(j, o), allowed<T>(c));
                    CHECK(out(j, o) == again(j, o));  // to the last bit
                }
            Matrix<T> bad = v, untouched(c.vectors, c.fan_out * (c.fan_in + 1));
            bad(c.vectors - 1, 0) = std::numeric_limits<T>::infinity();
            CHECK(!factored.product(bad.read(), untouched.view()));
            for (index o = 0; o < c.fan_out * c.fan_in; ++o) CHECK(std::isnan(untouched(0, o)));
        }
    }
    set_num_threads(1);
}

TEST("panels: the product of a layer on several threads") {
    check_product<float>();
    check_product<double>();
}

// out_j = sum_l P_l V_j B_l^T: one slice and several of the inner length, panels that are not full, more rows than a block.
template <class T>
void check_kronecker_sum() {
    struct Size {
        index layers, k, rows, length, vectors;
    };
    for (const int threads : {1, 2, 3})
        for (const Size& c : {Size{1, 1, 1, 1, 1}, Size{2, 3, 70, 300, 5}, Size{3, 7, 33, 33, 20}, Size{1, 2, 130, 520, 1}}) {
            set_num_threads(threads);
            const Matrix<T> p = random<T>(c.layers * c.k, c.k, 1, 0), v = random<T>(c.vectors, c.k * c.length, 2, 0);
            std::vector<Matrix<T>> b;
            std::vector<Packed<T>> packed;
            for (index l = 0; l < c.layers; ++l) {
                b.push_back(random<T>(c.rows, c.length, unsigned(3 + l)));
                packed.emplace_back(b.back().read());
            }
            Matrix<T> out(c.vectors, c.k * c.rows, 0);
            kronecker_sum(p.read(), std::span<const Packed<T>>(packed), v.read(), out.view());
            for (index j = 0; j < c.vectors; ++j)
                for (index i = 0; i < c.k; ++i)
                    for (index q = 0; q < c.rows; ++q) {
                        double expected = 0;
                        for (index l = 0; l < c.layers; ++l)
                            for (index a = 0; a < c.k; ++a)
                                for (index e = 0; e < c.length; ++e)
                                    expected += double(p(l * c.k + i, a)) * double(v(j, a * c.length + e)) *
                                                double(b[static_cast<std::size_t>(l)](q, e));
                        CHECK_NEAR(out(j, i * c.rows + q), expected, rounding<T>(c.layers * c.k * c.length));
                    }
        }
    set_num_threads(1);
}

TEST("panels: sums of Kronecker products") {
    test::use_naive_blas();
    check_kronecker_sum<float>();
    check_kronecker_sum<double>();
}

}  // namespace
