// Random vectors that estimators multiply an operator with, and what is known after some of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "algo/solvers/options.hpp"
#include "core/backend.hpp"

namespace gnfast::solvers {

// Both have E[w w^T] = I and |w|^2 = size. Signs have the least variance for a quadratic form; a uniform direction stays uniform
// in what is left when a subspace is projected out.
enum class Probe { signs, sphere };

// Rows of out (s, size) become the probes first, first + 1, ...: the same whatever blocks they are drawn in.
template <class B, class T>
void fill_probes(B& backend, Probe kind, std::uint64_t seed, index first, View<T> out) {
    constexpr std::uint64_t base = 0x70726f6265ull << 20;  // apart from the streams of weights and of starting blocks
    for (index i = 0; i < out.rows; ++i) {
        const View<T> row = out.row_range(i, 1);
        const std::uint64_t stream = base + std::uint64_t(first + i);
        if (kind == Probe::signs)
            backend.fill_signs(row, seed, stream);
        else
            backend.fill_normal(row, seed, stream, 1.0);
    }
    if (kind == Probe::signs) return;
    auto buffer = backend.template allocate<double>(out.rows);
    const View<double> squares(buffer.data(), 1, out.rows);
    backend.row_dots(View<const T>(out), View<const T>(out), squares);
    backend.resize_rows(View<const double>(squares), std::sqrt(double(out.cols)), out);
}

// Numbers that products were made of, or an error where these were not finite.
inline std::vector<double> finite(std::vector<double> values) {
    for (const double value : values)
        if (!std::isfinite(value)) throw nonfinite_error(nonfinite_product);
    return values;
}

// w^T y for each pair of rows, on the host. Waits.
template <class B, class T>
std::vector<double> finite_dots(B& backend, View<const T> w, View<const T> y) {
    std::vector<double> dots;
    backend.row_dots(w, y, dots);
    return finite(std::move(dots));
}

// Errors are told so that two of them hold the truth as often as two standard errors of many numbers do, in 95 of 100 cases. The spread
// of few numbers is itself uncertain: Student's quantile over the normal one for `count` numbers, by its series in 1 / (count - 1)
// at z = 2 (Abramowitz & Stegun 26.7.5), within 1 % from three numbers on.
inline double student(index count) {
    const double x = 1 / double(std::max<index>(1, count - 1));
    return 1 + x * (1.25 + x * (1.53 + x * (1.43 + x * 0.92)));
}

// Mean of independent numbers and its error (Welford 1962).
class Mean {
   public:
    void add(double x) {
        ++count_;
        const double off = x - mean_;
        mean_ += off / double(count_);
        squares_ += off * (x - mean_);
        scale_ = std::max(scale_, std::abs(x));
    }
    index count() const { return count_; }
    double value() const { return mean_; }
    double scale() const { return scale_; }  // the largest seen
    // Unknown, that is infinite, after a single number.
    double error() const {
        if (count_ < 2) return std::numeric_limits<double>::infinity();
        return student(count_) * std::sqrt(squares_ / (double(count_) * double(count_ - 1)));
    }

   private:
    index count_ = 0;
    double mean_ = 0, squares_ = 0, scale_ = 0;
};

struct EstimatorOptions {
    index samples = 1;       // vectors to multiply
    index max_products = 0;  // vectors multiplied before giving up on the tolerance
    double tol = 0;          // relative error asked for; 0 takes `samples` as they are
    index block = 1;         // vectors a product
    std::uint64_t seed = 0;
    Monitor monitor;
};

struct Estimate {
    double value = 0, error = 0;
    index products = 0;
    bool converged = true;  // the tolerance, if one was asked for, was met
};

inline bool meets(double value, double error, double tol) { return error <= tol * std::abs(value); }

// How many numbers in all the tolerance asks for, judged by the spread of `count` of them: errors fall like 1 / sqrt(count).
// At most twice as many, since the spread itself is an estimate.
inline index next_count(index count, double value, double error, double tol, index limit) {
    const double ratio = std::isfinite(error) && value != 0 ? error / (tol * std::abs(value)) : 2;
    const double wanted = double(count) * std::min(2.0, std::max(1.1, ratio * ratio));
    return std::min(limit, std::max(count + 1, index(std::ceil(wanted))));
}

}  // namespace gnfast::solvers
