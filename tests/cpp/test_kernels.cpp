// The inner loops against plain ones, at sizes that leave remainders in every block, with rows that are apart.
#include "check.hpp"
#include "cpu/kernels.hpp"
#include "matrices.hpp"

namespace {

using namespace gnfast;
using namespace gnfast::cpu;
using test::Matrix, test::random, test::rounding;

const index LENGTHS[] = {1, 3, 4, 7, 8, 15, 16, 17, 33, 61};
const index COUNTS[] = {1, 2, 3, 4, 5, 9};  // of rows and of vectors: blocks are 2 and 4

template <class T>
void check_contract_out() {
    for (const index m : LENGTHS)
        for (const index r : COUNTS)
            for (const index s : COUNTS)
                for (const bool transposed : {false, true}) {
                    const Matrix<T> rows = random<T>(r, m, 1), t = random<T>(s, m, 2, 5);
                    Matrix<T> u = transposed ? random<T>(r, s, 3) : random<T>(s, r, 3);
                    const Matrix<T> before = u;
                    const kernels::Strided<T> out{u.values.data(), transposed ? 1 : u.stride, transposed ? u.stride : 1};
                    kernels::contract_out(rows.values.data(), rows.stride, r, m, t.values.data(), t.stride, s, out);
                    for (index j = 0; j < s; ++j)
                        for (index c = 0; c < r; ++c) {
                            double expected = transposed ? before(c, j) : before(j, c);
                            for (index q = 0; q < m; ++q) expected += double(rows(c, q)) * double(t(j, q));
                            CHECK_NEAR(transposed ? u(c, j) : u(j, c), expected, rounding<T>(m));
                        }
                    CHECK(u.gaps_untouched());
                }
}

TEST("kernels: contract_out") {
    check_contract_out<float>();
    check_contract_out<double>();
}

template <class T>
void check_contract_in() {
    for (const index m : LENGTHS)
        for (const index r : COUNTS)
            for (const index s : COUNTS)
                for (const T beta : {T(0), T(1)}) {
                    const Matrix<T> rows = random<T>(r, m, 1), u = random<T>(s, r, 2, 2);
                    Matrix<T> out = beta == T(0) ? Matrix<T>(s, m) : random<T>(s, m, 3);  // NaN must not be read for beta 0
                    const Matrix<T> before = out;
                    kernels::contract_in(rows.values.data(), rows.stride, r, m, {u.values.data(), u.stride, 1}, s, beta, out.values.data(),
                                         out.stride);
                    for (index j = 0; j < s; ++j)
                        for (index q = 0; q < m; ++q) {
                            double expected = beta == T(0) ? 0 : before(j, q);
                            for (index c = 0; c < r; ++c) expected += double(u(j, c)) * double(rows(c, q));
                            CHECK_NEAR(out(j, q), expected, rounding<T>(r));
                        }
                    CHECK(out.gaps_untouched());
                }
}

TEST("kernels: contract_in") {
    check_contract_in<float>();
    check_contract_in<double>();
}

template <class T>
void check_pointwise() {
    for (const index m : LENGTHS) {
        const Matrix<T> a = random<T>(1, m, 1), b = random<T>(1, m, 2), old = random<T>(1, m, 3);
        Matrix<T> sum = old, product = old;
        kernels::multiply_accumulate(a.values.data(), b.values.data(), sum.values.data(), m);
        kernels::multiply(a.values.data(), product.values.data(), m);
        for (index q = 0; q < m; ++q) {
            CHECK_NEAR(sum(0, q), double(old(0, q)) + double(a(0, q)) * double(b(0, q)), rounding<T>(1));
            CHECK(product(0, q) == a(0, q) * old(0, q));
        }
        CHECK(sum.gaps_untouched() && product.gaps_untouched());
    }
}

TEST("kernels: multiply and multiply_accumulate") {
    check_pointwise<float>();
    check_pointwise<double>();
}

TEST("kernels: moments of uniform numbers") {
    const index size = 200'000;
    std::vector<double> x(size);
    const auto moment = [&](int power) {
        double total = 0;
        for (const double value : x) total += std::pow(value, power);
        return total / double(size);
    };
    // Five standard deviations of a mean over 200,000: the numbers are always the same, so that this does not flicker.
    const double five = 5 / std::sqrt(double(size));
    kernels::uniform_row(1, 2, 3, -1.0, 1.0, x.data(), size);
    CHECK_NEAR(moment(1), 0, five / std::sqrt(3.0));
    CHECK_NEAR(moment(2), 1.0 / 3, five * std::sqrt(4.0 / 45));
    for (const double value : x) CHECK(value > -1 && value < 1);
}

}  // namespace
