// Scalar formulas: random words, activations, losses.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "cases.hpp"
#include "check.hpp"
#include "core/loss.hpp"
#include "core/philox.hpp"
#include "core/pointwise.hpp"
#include "core/triangle.hpp"

namespace {

using namespace gnfast;

// ------------------------------------------------------------------------------------------------------- Philox
using Words4 = std::array<std::uint32_t, 4>;

// generate() for a plain Philox counter and key: the counter is (quad, row, row >> 32, stream) and the key is
// seed + golden ratio * stream.
Words4 philox_of(const Words4& counter, std::uint32_t k0, std::uint32_t k1) {
    const std::uint64_t stream = counter[3], key = k0 + (std::uint64_t{k1} << 32);
    const std::uint64_t row = counter[1] + (std::uint64_t{counter[2]} << 32);
    const philox::Words found = philox::generate(key - 0x9E3779B97F4A7C15ull * stream, stream, row, counter[0]);
    return {found.w[0], found.w[1], found.w[2], found.w[3]};
}

TEST("core: Philox4x32-10 gives the known answers of Random123") {
    constexpr std::uint32_t ones = 0xffffffff;
    CHECK((philox_of({0, 0, 0, 0}, 0, 0) == Words4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    CHECK((philox_of({ones, ones, ones, ones}, ones, ones) == Words4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    CHECK((philox_of({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0) ==
           Words4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST("core: words depend on seed, stream, row and column, high halves too") {
    const std::uint64_t high = std::uint64_t{1} << 32;
    const auto word = [](std::uint64_t seed, std::uint64_t stream, std::uint64_t row, std::uint32_t quad) {
        return philox::generate(seed, stream, row, quad).w[0];
    };
    const std::vector<std::uint32_t> words{word(0, 0, 0, 0), word(1, 0, 0, 0),    word(0, 1, 0, 0),    word(0, 0, 1, 0),
                                           word(0, 0, 0, 1), word(high, 0, 0, 0), word(0, high, 0, 0), word(0, 0, high, 0)};
    for (std::size_t i = 0; i < words.size(); ++i)
        for (std::size_t j = 0; j < i; ++j) CHECK(words[i] != words[j]);
}

TEST("core: uniform numbers lie inside (0, 1), normal ones are finite at both ends") {
    CHECK(philox::unit(0) > 0 && philox::unit(0xffffffff) < 1);
    for (const std::uint32_t a : {0u, 1u, 0xffffffffu})
        for (const std::uint32_t b : {0u, 0x80000000u, 0xffffffffu}) {
            double x, y;
            philox::normal_pair(a, b, x, y);
            CHECK(std::isfinite(x) && std::isfinite(y));
            CHECK_NEAR(x * x + y * y, -2 * std::log(philox::unit(a)), 1e-12);
        }
}

TEST("core: signs are the words' bits") {
    const philox::Words words = philox::generate(3, 4, 5, 6);
    for (index p = 0; p < 128; ++p) CHECK(philox::positive(words, p) == ((words.w[p / 32] >> (p % 32)) % 2 == 1));
}

// ------------------------------------------------------------------------------------------------------- indices
TEST("core: the position at which a tap reads a pixel is the inverse of the pixel that it reads there") {
    for (const Windows& w : test::window_cases())
        for (const Axis& axis : {w.y, w.x})
            for (index tap = 0; tap < axis.kernel; ++tap)
                for (const bool circular : {false, true}) {
                    if (circular && !w.circular) continue;
                    index seen = 0;
                    for (index pixel = 0; pixel < axis.size; ++pixel)
                        for (index turn = circular ? -1 : 0; turn <= (circular ? 1 : 0); ++turn) {
                            const index at = axis.position(pixel + turn * axis.size, tap);
                            if (at < 0) continue;
                            CHECK(at < axis.positions && axis.pixel(at, tap, circular) == pixel);
                            ++seen;
                        }
                    for (index at = 0; at < axis.positions; ++at) seen -= axis.pixel(at, tap, circular) >= 0;
                    CHECK(seen == 0);  // each of them once
                }
}

TEST("core: pairs of a triangle are counted through") {
    for (const index r : {1, 2, 5, 17}) {
        index number = 0;
        for (index a = 0; a < r; ++a)
            for (index b = a; b < r; ++b, ++number) {
                CHECK(triangle::number(a, b, r) == number);
                CHECK(triangle::pair(number, r).a == a && triangle::pair(number, r).b == b);
            }
        CHECK(triangle::count(r) == number);
    }
}

// --------------------------------------------------------------------------------------------------- activations
template <class T, class F>
std::array<T, 2> at(F f, T z) {
    T value, derivative;
    f(z, value, derivative);
    return {value, derivative};
}

template <class F>
void check_derivative(F f) {
    const double h = 1e-6;
    for (const double z : {-7.3, -2.0, -0.4, -1e-3, 2e-3, 0.7, 1.9, 6.1}) {
        const double slope = (at(f, z + h)[0] - at(f, z - h)[0]) / (2 * h);
        CHECK_NEAR(at(f, z)[1], slope, 1e-8);  // h^2 and eps / h
        const auto single = at(f, static_cast<float>(z));
        CHECK_NEAR(single[0], at(f, z)[0], 1e-6 * (1 + std::abs(z)));
        CHECK_NEAR(single[1], at(f, z)[1], 1e-6);
    }
}

TEST("core: derivatives of activations are those of finite differences") {
    check_derivative(pointwise::Identity{});
    check_derivative(pointwise::LeakyRelu{0.0});
    check_derivative(pointwise::LeakyRelu{0.3});
    check_derivative(pointwise::LeakyRelu{-0.5});
    check_derivative(pointwise::Tanh{});
    check_derivative(pointwise::Sigmoid{});
    check_derivative(pointwise::Gelu{});
}

TEST("core: kinks are PyTorch's and large arguments do not overflow") {
    CHECK(at(pointwise::LeakyRelu{0.0}, 0.0)[1] == 0);
    CHECK(at(pointwise::LeakyRelu{0.25}, 0.0)[1] == 0.25);
    CHECK(at(pointwise::LeakyRelu{0.25}, -0.0)[1] == 0.25);
    CHECK(at(pointwise::LeakyRelu{0.25}, -2.0)[0] == -0.5);
    for (const double z : {1e4, 1e300}) {
        CHECK(at(pointwise::Sigmoid{}, z) == (std::array<double, 2>{1, 0}));
        CHECK(at(pointwise::Sigmoid{}, -z) == (std::array<double, 2>{0, 0}));
        CHECK(at(pointwise::Tanh{}, -z) == (std::array<double, 2>{-1, 0}));
        CHECK(at(pointwise::Gelu{}, -z)[0] == 0);
    }
    CHECK(at(pointwise::Gelu{}, 1e4)[0] == 1e4 && at(pointwise::Gelu{}, 1e4)[1] == 1);
    CHECK_NEAR(at(pointwise::Sigmoid{}, -40.0)[1] / std::exp(-40.0), 1, 1e-12);  // the tail keeps its digits
    CHECK_NEAR(at(pointwise::Gelu{}, -8.0)[0] / (-8.0 * 6.220960574271786e-16), 1, 1e-12);
}

// ------------------------------------------------------------------------------------------------------- losses
constexpr index k = 5;
using Outputs = std::array<double, k>;
const std::vector<Outputs> OUTPUTS{
    {0.3, -1.2, 2.0, 0.1, -0.4}, {0, 0, 0, 0, 0}, {40, -3, 1, 0, 2}, {-5, 800, 2, 700, 1}, {1, 1, -900, 1, 1}};

double value(Loss loss, const Outputs& f) {
    double total = 0, top = 0;
    for (const double z : f) top = std::max(top, z);
    for (const double z : f) {
        if (loss == Loss::mse) total += z * z / 2;
        if (loss == Loss::cross_entropy) total += std::exp(z - top);
        if (loss == Loss::poisson) total += std::exp(z);
        if (loss == Loss::binary_cross_entropy) total += std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z)));
    }
    return loss == Loss::cross_entropy ? std::log(total) + top : total;
}

const std::vector<Loss> FORMULAS{Loss::mse, Loss::cross_entropy, Loss::binary_cross_entropy, Loss::poisson};

// What is kept for a sample of this weight; mse of weight 1 keeps nothing.
const double* keep(Loss loss, const Outputs& f, double weight, Outputs& kept) {
    kept.fill(1);
    loss::prepare(loss, f.data(), k, kept.data());
    for (double& value : kept) value *= std::sqrt(weight);
    return loss == Loss::mse && weight == 1 ? nullptr : kept.data();
}

TEST("core: the Hessian of a loss is that of finite differences") {
    for (const Loss loss : FORMULAS)
        for (std::size_t at = 0; at < 4; ++at) {
            Outputs room{};
            const double weight = at < 2 ? 1 : 0.3;
            const double* kept = keep(loss, OUTPUTS[at % 2], weight, room);
            for (std::size_t b = 0; b < k; ++b) {
                Outputs column{};
                column[b] = 1;
                loss::hessian_product(loss, kept, k, 0.5, column.data());
                for (std::size_t a = 0; a < k; ++a) {
                    const double h = 1e-4;
                    const auto shifted = [&](double u, double v) {
                        Outputs f = OUTPUTS[at % 2];
                        f[a] += u;
                        f[b] += v;
                        return value(loss, f);
                    };
                    const double second = (shifted(h, h) - shifted(h, -h) - shifted(-h, h) + shifted(-h, -h)) / (4 * h * h);
                    CHECK_NEAR(column[a], 0.5 * weight * second, 1e-6);
                }
            }
        }
}

TEST("core: R R^T = H for the full and for the reduced factor, saturated classes, weights and weight zero too") {
    for (const Loss loss : FORMULAS)
        for (const bool reduced : {false, true})
            for (const double weight : {1.0, 0.3, 0.0})
                for (const Outputs& f : OUTPUTS) {
                    if (loss == Loss::poisson && *std::max_element(f.begin(), f.end()) > 700) continue;  // exp overflows
                    Outputs room{};
                    const double* kept = keep(loss, f, weight, room);
                    const index rank = loss::factor_rank(loss, k, reduced);
                    CHECK(rank == (loss == Loss::cross_entropy && reduced ? k - 1 : k));
                    std::vector<double> rows(static_cast<std::size_t>(k * k), 1e9);
                    loss::factor_rows(loss, kept, k, reduced, 0.25, rows.data());
                    for (index b = 0; b < k; ++b) {
                        Outputs column{};
                        column[static_cast<std::size_t>(b)] = 1;
                        loss::hessian_product(loss, kept, k, 0.25, column.data());
                        for (index a = 0; a < k; ++a) {
                            double product = 0;
                            for (index c = 0; c < rank; ++c)
                                product += rows[static_cast<std::size_t>(c * k + a)] * rows[static_cast<std::size_t>(c * k + b)];
                            const double expected = column[static_cast<std::size_t>(a)];
                            // Relative: the Hessian of a saturated class is tiny, and its digits count.
                            const double size = room[static_cast<std::size_t>(a)] * room[static_cast<std::size_t>(b)];
                            CHECK_NEAR(product, expected, 1e-15 * size + 1e-300);
                        }
                    }
                }
}

TEST("core: the softmax of a confident sample keeps the digits of every entry of H and of the factors") {
    for (const Outputs& f : std::vector<Outputs>{
             {0, 5, -1, 2, 1}, {20, 0, -1, 3, 2}, {0, -1, 45, 3, -60}, {-300, 0, -1, 300, 2}, {400, 0, 399, -1, -250}, {1, 1, 0, 1, 1}}) {
        // In extended precision, 1 - p_t as the sum of the others.
        const auto t = static_cast<std::size_t>(std::max_element(f.begin(), f.end()) - f.begin());
        std::array<long double, k> p{};
        long double total = 0, rest = 0;
        for (std::size_t a = 0; a < k; ++a) total += p[a] = std::exp(static_cast<long double>(f[a]) - static_cast<long double>(f[t]));
        for (std::size_t a = 0; a < k; ++a) p[a] /= total, rest += a == t ? 0 : p[a];
        const auto entry = [&](std::size_t a, std::size_t b) { return a != b ? -p[a] * p[b] : a == t ? p[a] * rest : p[a] * (1 - p[a]); };
        Outputs kept{};
        loss::prepare(Loss::cross_entropy, f.data(), k, kept.data());
        for (std::size_t b = 0; b < k; ++b) {
            Outputs column{};
            column[b] = 1;
            loss::hessian_product(Loss::cross_entropy, kept.data(), k, 1.0, column.data());
            for (std::size_t a = 0; a < k; ++a) CHECK_NEAR(column[a], double(entry(a, b)), 1e-13 * std::abs(double(entry(a, b))) + 1e-300);
        }
        for (const bool reduced : {false, true}) {
            std::vector<double> rows(static_cast<std::size_t>(k * k));
            loss::factor_rows(Loss::cross_entropy, kept.data(), k, reduced, 1.0, rows.data());
            for (std::size_t a = 0; a < k; ++a)
                for (std::size_t b = 0; b < k; ++b) {
                    double product = 0;
                    for (std::size_t c = 0; c < std::size_t(loss::factor_rank(Loss::cross_entropy, k, reduced)); ++c)
                        product += rows[c * k + a] * rows[c * k + b];
                    const double size = std::sqrt(double(entry(a, a))) * std::sqrt(double(entry(b, b)));
                    CHECK_NEAR(product, double(entry(a, b)), 1e-14 * size + 1e-300);
                }
        }
    }
}

TEST("core: probabilities add up to one, survive large outputs, and reach as far as their roots") {
    for (const Outputs& f : OUTPUTS) {
        Outputs kept{};
        loss::prepare(Loss::cross_entropy, f.data(), k, kept.data());
        double total = 0;
        for (const double root : kept) {
            CHECK(root >= 0);
            total += root * root;
        }
        CHECK_NEAR(total, 1, 1e-15);
    }
    const float f[2] = {0.0f, 160.0f};
    float kept[2];
    loss::prepare(Loss::cross_entropy, f, 2, kept);
    CHECK(kept[1] == 1);
    CHECK_NEAR(kept[0] / std::exp(-80.0), 1, 1e-5);
    loss::prepare(Loss::binary_cross_entropy, f + 1, 1, kept);
    CHECK_NEAR(kept[0] / std::exp(-80.0), 1, 1e-5);
    // Scaled by a power of two such a Hessian is in range.
    loss::prepare(Loss::cross_entropy, f, 2, kept);
    float u[2] = {1.0f, 0.0f};
    loss::hessian_product(Loss::cross_entropy, kept, 2, std::ldexp(1.0f, 120), u);
    CHECK_NEAR(u[0] / (std::ldexp(1.0, 120) * std::exp(-160.0)), 1, 1e-5);
    CHECK(u[1] == -u[0]);
}

}  // namespace
