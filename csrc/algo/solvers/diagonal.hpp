// Diagonals by random signs: the plain mean, and XDiag.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "algo/solvers/sketch.hpp"

namespace gnfast::solvers {

// Mean and sum of squared deviations of the rows of e (s, size), entry by entry; e is overwritten.
template <class B, class T>
void moments_of_rows(B& backend, View<T> e, View<T> mean, View<T> squares) {
    const std::vector<double> share{1.0 / double(e.rows)}, minus{-1.0}, none{0.0};
    backend.sum_rows(Batch<const T>(View<const T>(e), 1, 0), T(0), Batch<T>(mean, 1, 0));
    backend.combine_rows(none, View<const T>(mean), share, mean);
    auto buffer = backend.template allocate<T>((e.rows + 1) * e.cols);
    const View<T> negative(buffer.data(), 1, e.cols), square(buffer.data() + e.cols, e.rows, e.cols);
    backend.combine_rows(minus, View<const T>(mean), none, negative);
    backend.add_row(Batch<T>(e, 1, 0), Batch<const T>(View<const T>(negative), 1, 0));
    backend.fill(square, T(0));
    backend.add_product(View<const T>(e), View<const T>(e), square);
    backend.sum_rows(Batch<const T>(View<const T>(square), 1, 0), T(0), Batch<T>(squares, 1, 0));
}

// Mean and sum of squared deviations of all rows so far, entry by entry: blocks of rows are merged as Chan, Golub & LeVeque (1983) do, so
// that no large sums are subtracted.
template <class B, class T>
class EntryMoments {
   public:
    // mean and squares (1, size) are the caller's.
    EntryMoments(B& backend, View<T> mean, View<T> squares)
        : backend_(backend), mean_(mean), squares_(squares), buffer_(backend.template allocate<T>(3 * mean.cols)) {}

    index count() const { return count_; }
    void forget() { count_ = 0; }

    // Rows e (s, size), overwritten.
    void add(View<T> e) {
        if (count_ == 0) {
            moments_of_rows(backend_, e, mean_, squares_);
        } else {
            const View<T> mean = part(0), squares = part(1), square = part(2);
            moments_of_rows(backend_, e, mean, squares);
            const double total = double(count_ + e.rows);
            const std::vector<double> one{1.0}, minus{-1.0};
            backend_.combine_rows(minus, View<const T>(mean_), one, mean);  // the difference of the means
            backend_.fill(square, T(0));
            backend_.add_product(View<const T>(mean), View<const T>(mean), square);
            backend_.combine_rows(one, View<const T>(squares), one, squares_);
            backend_.combine_rows(std::vector<double>{double(count_) * double(e.rows) / total}, View<const T>(square), one, squares_);
            backend_.combine_rows(std::vector<double>{double(e.rows) / total}, View<const T>(mean), one, mean_);
        }
        count_ += e.rows;
    }

    // Norms over all entries: of the mean, and of its errors.
    double norm() {
        std::vector<double> dots;
        backend_.row_dots(View<const T>(mean_), View<const T>(mean_), dots);
        return std::sqrt(dots[0]);
    }
    double error() {
        if (count_ < 2) return std::numeric_limits<double>::infinity();
        std::vector<double> dots;
        backend_.fill(part(0), T(1));
        backend_.row_dots(View<const T>(squares_), View<const T>(part(0)), dots);
        return student(count_) * std::sqrt(dots[0] / (double(count_) * double(count_ - 1)));
    }

   private:
    View<T> part(index which) { return {buffer_.data() + which * mean_.cols, 1, mean_.cols}; }

    B& backend_;
    View<T> mean_, squares_;
    typename B::template buffer<T> buffer_;
    index count_ = 0;
};

struct DiagonalResult {
    index count = 0;  // of estimates
    index products = 0;
    bool converged = true;  // the norm of the errors is within the tolerance times that of the mean, if one was asked for
};

// The mean of w o A w over random signs w (Bekas, Kokiopoulou & Saad 2007); (1, size) each, see moments_of_rows.
template <class B, class T>
DiagonalResult hutchinson_diagonal(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options, View<T> mean,
                                   View<T> squares) {
    const index block = std::min(options.block, options.samples), limit = std::max(options.samples, options.max_products);
    auto buffer = backend.template allocate<T>(3 * block * size);
    const auto part = [&](index which, index rows) { return View<T>(buffer.data() + which * block * size, rows, size); };
    EntryMoments<B, T> moments(backend, mean, squares);
    index target = options.samples;
    while (true) {
        while (moments.count() < target) {
            const index s = std::min(block, target - moments.count());
            const View<T> w = part(0, s), y = part(1, s), e = part(2, s);
            fill_probes(backend, Probe::signs, options.seed, moments.count(), w);
            apply(View<const T>(w), y);
            finite_dots<B, T>(backend, w, y);
            backend.fill(e, T(0));
            backend.add_product(View<const T>(w), View<const T>(y), e);
            moments.add(e);
            report(options.monitor, "diagonal", double(moments.count()), double(target));
        }
        const bool met = options.tol <= 0 || meets(moments.norm(), moments.error(), options.tol);
        if (met || target >= limit) return {target, target, met};
        target = next_count(target, moments.norm(), moments.error(), options.tol, limit);
    }
}

// XDiag (Epperly, Tropp & Webber 2024). With Q, s_i and C as in Sketch and Z = A Q, u_i = Q^T s_i, v_i = Z^T s_i, estimate i is
// diag(Q^T Z) - u_i o v_i + w_i o (I - P_i) A w_i, and (I - P_i) A w_i = (s_i . C_i) u_i since A w_i = Q^T C_i. Two products each.
template <class B, class T>
DiagonalResult xdiag(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options, View<T> mean, View<T> squares) {
    const auto tests = [&](index products) { return std::clamp<index>(products / 2, 1, size); };
    const index limit = tests(std::max(options.samples, options.max_products)), block = std::min(options.block, limit);
    index target = tests(options.samples);
    Sketch<B, T> sketch(backend, apply, size, Probe::signs, options.seed, true);
    auto buffer = backend.template allocate<T>((3 * block + 1) * size);
    const auto part = [&](index which, index rows) { return View<T>(buffer.data() + which * block * size, rows, size); };
    const View<T> shared = part(3, 1);
    const std::vector<double> one{1.0};
    EntryMoments<B, T> moments(backend, mean, squares);
    while (true) {
        sketch.grow(target, options.block);
        report(options.monitor, "diagonal", double(2 * target), double(2 * target));
        const Small s = excluding(sketch.c);
        moments.forget();
        backend.fill(shared, T(0));
        for (index i = 0; i < target; i += block) {
            const index rows = std::min(block, target - i);
            const View<T> w = part(0, rows), u = part(1, rows), e = part(2, rows);
            Small some(rows, target);
            std::copy_n(s.values.begin() + i * target, rows * target, some.values.begin());
            std::vector<double> factors;
            for (index q = i; q < i + rows; ++q) factors.push_back(dot(s, q, sketch.c, q));
            // w_i <- (s_i . C_i) w_i - v_i
            backend.combine_rows(factors, View<const T>(sketch.tests().row_range(i, rows)), std::vector<double>(factors.size()), w);
            sketch.blocks().combine(-1, some, View<const T>(sketch.image()), 1, w);
            sketch.blocks().combine(1, some, View<const T>(sketch.basis()), 0, u);
            backend.fill(e, T(0));
            backend.add_product(View<const T>(u), View<const T>(w), e);
            moments.add(e);
            backend.fill(e, T(0));
            backend.add_product(View<const T>(sketch.basis().row_range(i, rows)), View<const T>(sketch.image().row_range(i, rows)), e);
            backend.sum_rows(Batch<const T>(View<const T>(e), 1, 0), T(1), Batch<T>(shared, 1, 0));
        }
        backend.combine_rows(one, View<const T>(shared), one, mean);
        const bool met = options.tol <= 0 || meets(moments.norm(), moments.error(), options.tol);
        if (met || target >= limit) return {target, 2 * target, met};
        target = std::min(limit, 2 * target);
    }
}

}  // namespace gnfast::solvers
