// Normal numbers: their law, the scalar formula's accuracy, and the vectors' agreement with it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.hpp"
#include "core/philox.hpp"
#include "cpu/kernels.hpp"

namespace {

using namespace gnfast;

template <class T>
std::vector<T> numbers(index rows, index columns, std::uint64_t seed) {
    std::vector<T> out(static_cast<std::size_t>(rows * columns));
    for (index i = 0; i < rows; ++i) cpu::kernels::normal_row(seed, 3, std::uint64_t(i), 0, 1.0, out.data() + i * columns, columns);
    return out;
}

// Distribution function of a standard normal.
double below(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

template <class T>
void check_law() {
    std::vector<T> z = numbers<T>(500, 2003, 17);
    const double n = double(z.size());
    // Moments: E z^p = (p - 1)!! for even p, with variance (2p - 1)!! - ((p - 1)!!)^2 of z^p; 5 standard deviations.
    double even = 1, square = 1;
    for (int p = 1; p <= 8; ++p) {
        square *= 2 * p - 1;  // (2p - 1)!!
        if (p % 2 == 0) even *= p - 1;
        double mean = 0;
        for (const T x : z) mean += std::pow(double(x), p) / n;
        const double expected = p % 2 == 0 ? even : 0;
        CHECK_NEAR(mean, expected, 5 * std::sqrt((square - expected * expected) / n));
    }
    // Neighbours in a row and in a column do not know each other.
    for (const std::size_t lag : {std::size_t{1}, std::size_t{2}, std::size_t{4}, std::size_t{2003}}) {
        double product = 0, squares = 0;
        for (std::size_t i = lag; i < z.size(); ++i) {
            const double x = double(z[i]), y = double(z[i - lag]);
            product += x * y / n;
            squares += (x * x - 1) * (y * y - 1) / (2 * n);
        }
        CHECK_NEAR(product, 0, 5 / std::sqrt(n));
        CHECK_NEAR(squares, 0, 5 / std::sqrt(n));
    }
    // Kolmogorov-Smirnov: beyond 2.2 / sqrt(n) once in 8,000 times. Then the tails, by their counts.
    std::sort(z.begin(), z.end());
    double distance = 0;
    for (std::size_t i = 0; i < z.size(); ++i) {
        const double p = below(double(z[i]));
        distance = std::max({distance, std::abs(p - double(i) / n), std::abs(p - double(i + 1) / n)});
    }
    CHECK(distance < 2.2 / std::sqrt(n));
    for (const double x : {2.0, 3.0, 4.0}) {
        const double expected = n * below(-x);
        const auto low = double(std::lower_bound(z.begin(), z.end(), T(-x)) - z.begin());
        const auto high = double(z.end() - std::upper_bound(z.begin(), z.end(), T(x)));
        CHECK_NEAR(low, expected, 5 * std::sqrt(expected));
        CHECK_NEAR(high, expected, 5 * std::sqrt(expected));
    }
}

TEST("normals: moments, neighbours, distribution and tails are those of independent normal numbers") {
    check_law<float>();
    check_law<double>();
}

template <class T>
void check_accuracy() {
    std::vector<std::uint32_t> words{0,           1,           2,           0xffffu,     0x10000u,    0x1fffffffu, 0x20000000u, 0x3fffffffu,
                                     0x40000000u, 0x5fffffffu, 0x60000000u, 0x7fffffffu, 0x80000000u, 0xa0000000u, 0xb504f333u, 0xb504f334u,
                                     0xbfffffffu, 0xc0000000u, 0xdfffffffu, 0xe0000000u, 0xfffffff0u, 0xffffffffu};
    for (std::uint32_t i = 0; i < 200; ++i)
        for (const std::uint32_t w : philox::generate(1, 2, 3, i).w) words.push_back(w >> (i % 29));
    for (const std::uint32_t a : words)
        for (const std::uint32_t b : words) {
            T x, y;
            philox::normal_pair(a, b, x, y);
            const long double u = (static_cast<long double>(a) + 0.5L) * 0x1p-32L, v = (static_cast<long double>(b) + 0.5L) * 0x1p-32L;
            // log of a number next to 1 from its distance to 1, which is exact; the angle from the nearest quarter turn.
            const long double missing = (static_cast<long double>(~a) + 0.5L) * 0x1p-32L;
            const long double radius = std::sqrt(-2 * (u > 0.5L ? std::log1p(-missing) : std::log(u)));
            const long double angle = 2 * std::acos(-1.0L) * v;
            const double tolerance = double(radius) * 4 * double(std::numeric_limits<T>::epsilon()) / 2;
            CHECK_NEAR(double(x - radius * std::cos(angle)), 0, tolerance);
            CHECK_NEAR(double(y - radius * std::sin(angle)), 0, tolerance);
        }
}

TEST("normals: the formula is within 4 units in the last place of the radius, for words at every edge") {
    check_accuracy<float>();
    check_accuracy<double>();
}

template <class T>
void check_rows() {
    const std::uint64_t seed = 0x123456789abcdef0ull, stream = 11, row = std::uint64_t{7} << 33;
    std::vector<T> whole(709);
    cpu::kernels::normal_row(seed, stream, row, 0, 2.0, whole.data(), 709);
    for (std::size_t q = 0; q < whole.size(); ++q) {
        // A multiply-add rounds once or twice: the last digits may differ, but no more.
        const double expected = 2 * double(philox::normal<T>(seed, stream, row, q));
        CHECK_NEAR(double(whole[q]), expected, 20 * double(std::numeric_limits<T>::epsilon()));
    }
    // From any column on, for any length: the same numbers to the last digit.
    for (const index first : {index{4}, index{64}, index{132}, index{704}})
        for (const index count : {index{1}, index{3}, index{63}, index{64}, index{130}}) {
            const index length = std::min<index>(count, 709 - first);
            std::vector<T> part(static_cast<std::size_t>(length) + 1, T(-7));
            cpu::kernels::normal_row(seed, stream, row, std::uint64_t(first), 2.0, part.data(), length);
            for (index q = 0; q < length; ++q) CHECK(part[std::size_t(q)] == whole[std::size_t(first + q)]);
            CHECK(part.back() == T(-7));
        }
    // Columns beyond 2^32, where the words are counted in fours.
    T far;
    cpu::kernels::normal_row(seed, stream, row, (std::uint64_t{1} << 33) + 8, 1.0, &far, 1);
    CHECK_NEAR(double(far), double(philox::normal<T>(seed, stream, row, (std::uint64_t{1} << 33) + 8)),
               10 * double(std::numeric_limits<T>::epsilon()));
}

TEST("normals: rows are the scalar formula's, from any column on") {
    check_rows<float>();
    check_rows<double>();
}

}  // namespace
