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

// XDiag (Epperly, Tropp & Webber 2024). With Q, s_i and C as in Sketch and Z = A Q, u_i = Q^T s_i, v_i = Z^T s_i, f_i = s_i . C_i and
// x_i = f_i w_i - v_i, estimate i is diag(Q^T Z) - u_i o v_i + w_i o (I - P_i) A w_i = diag(Q^T Z) + u_i o x_i, since A w_i = Q^T C_i.
// Two products each. Its error is made as that of XTrace: the estimates' spread takes each for independent of the others, the jackknife
// takes the spread of the means without one test vector, and the root of their product is taken.
//
// Estimate i without test vector j, c = s_i . s_j and g = 1 / (1 - c^2), where s_i and s_j are two directions:
//     diag(Q^T Z) + g (u_i o x_i - u_j o v_j + c (u_i o v_j - u_j o x_i)),
// so that all of the sums over i are products with the matrices g and g c (m, m): 10 m^2 size flops in all.
template <class B, class T>
class XDiag {
   public:
    XDiag(B& backend, Sketch<B, T>& sketch) : backend_(backend), sketch_(sketch) {}

    // mean, and sums of squared deviations: of the estimates, and of their means without one test vector; (1, size) each. Entries are
    // done `columns` at a time, in 6 (m, columns).
    void run(index columns, View<T> mean, View<T> squares, View<T> without, const Monitor& monitor) {
        const Small s = excluding(sketch_.c);
        prepare(s);
        const index size = mean.cols, m = sketch_.count();
        columns = std::clamp<index>(columns, 1, size);
        buffer_ = backend_.template allocate<T>(6 * m * columns);
        for (index first = 0; first < size; first += columns) {
            const index count = std::min(columns, size - first);
            const auto part = [&](View<T> all) { return all.block(0, all.rows, first, count); };
            entries(s, part(sketch_.tests()), part(sketch_.basis()), part(sketch_.image()), part(mean), part(squares), part(without));
            report(monitor, "diagonal", double(2 * m), double(2 * m));
        }
    }

   private:
    void prepare(const Small& s) {
        const index m = sketch_.count();
        g_ = cosines_ = Small(m, m);
        const std::vector<double> none(static_cast<std::size_t>(m));
        factors_ = taken_ = none;
        for (index j = 0; j < m; ++j) {
            factors_[static_cast<std::size_t>(j)] = dot(s, j, sketch_.c, j);
            for (index i = 0; i < m; ++i) {
                if (i == j) continue;
                const double cosine = dot(s, i, s, j), sine2 = 1 - cosine * cosine;
                // Where they are one direction up to rounding, leaving w_j out leaves nothing more out.
                const bool both = sine2 > 1e4 * double(std::numeric_limits<T>::epsilon());
                g_(j, i) = both ? 1 / sine2 : 1;
                cosines_(j, i) = both ? cosine / sine2 : 0;
                if (both) taken_[static_cast<std::size_t>(j)] -= 1 / sine2;
            }
        }
    }

    void entries(const Small& s, View<const T> w, View<const T> q, View<const T> z, View<T> mean, View<T> squares, View<T> without) {
        const index m = w.rows, count = w.cols;
        const auto part = [&](index which) { return View<T>(buffer_.data() + which * m * count, m, count); };
        const View<T> u = part(0), v = part(1), x = part(2), e = part(3), t = part(4), p = part(5);
        const std::vector<double> one(static_cast<std::size_t>(m), 1.0), minus(one.size(), -1.0);
        Blocks<B, T>& blocks = sketch_.blocks();
        const auto product = [&](View<const T> a, View<const T> b, View<T> out) {
            backend_.fill(out, T(0));
            backend_.add_product(a, b, out);
        };
        blocks.combine(1, s, q, 0, u);
        blocks.combine(1, s, z, 0, v);
        backend_.copy(View<const T>(v), x);
        backend_.combine_rows(factors_, w, minus, x);
        product(View<const T>(u), View<const T>(x), e);
        product(View<const T>(u), View<const T>(v), p);
        blocks.combine(1, g_, View<const T>(e), 0, t);
        backend_.combine_rows(taken_, View<const T>(p), one, t);
        blocks.combine(1, cosines_, View<const T>(u), 0, p);
        backend_.add_product(View<const T>(v), View<const T>(p), t);
        blocks.combine(-1, cosines_, View<const T>(x), 0, p);
        backend_.add_product(View<const T>(u), View<const T>(p), t);
        // Means of m - 1, but for what they share.
        backend_.combine_rows(std::vector<double>(one.size()), View<const T>(t),
                              std::vector<double>(one.size(), 1 / double(std::max<index>(1, m - 1))), t);
        moments_of_rows(backend_, t, mean, without);
        moments_of_rows(backend_, e, mean, squares);
        product(q, z, p);
        backend_.sum_rows(Batch<const T>(View<const T>(p), 1, 0), T(0), Batch<T>(t.row_range(0, 1), 1, 0));
        backend_.combine_rows(std::vector<double>{1.0}, View<const T>(t.row_range(0, 1)), std::vector<double>{1.0}, mean);
    }

    B& backend_;
    Sketch<B, T>& sketch_;
    Small g_, cosines_;
    std::vector<double> factors_, taken_;
    typename B::template buffer<T> buffer_;
};

template <class B, class T>
DiagonalResult xdiag(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options, View<T> mean, View<T> squares,
                     View<T> without) {
    const auto tests = [&](index products) { return std::clamp<index>(products / 2, 1, size); };
    const index limit = tests(std::max(options.samples, options.max_products));
    index target = tests(options.samples);
    Sketch<B, T> sketch(backend, apply, size, Probe::signs, options.seed, true);
    const auto sum = [&](View<T> row) {
        auto ones = backend.template allocate<T>(size);
        backend.fill(View<T>(ones.data(), 1, size), T(1));
        return finite_dots<B, T>(backend, View<const T>(row), View<const T>(ones.data(), 1, size)).front();
    };
    while (true) {
        sketch.grow(target, options.block, options.monitor, "diagonal");
        XDiag<B, T>(backend, sketch).run(options.block * size / (3 * target) + 1, mean, squares, without, options.monitor);
        if (options.tol <= 0) return {target, 2 * target, true};
        const double norm = std::sqrt(finite_dots<B, T>(backend, View<const T>(mean), View<const T>(mean)).front());
        // Summed over the entries, at most this by Cauchy's inequality.
        const double both = std::sqrt(sum(squares) * sum(without));
        const bool met = target > 1 && meets(norm, student(target) * std::sqrt(both / double(target - 1)), options.tol);
        if (met || target >= limit) return {target, 2 * target, met};
        target = std::min(limit, 2 * target);
    }
}

}  // namespace gnfast::solvers
