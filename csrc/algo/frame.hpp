// Tall matrices seen through their Gram matrices: orthonormal frames by pivoted Cholesky factorisation, on the host.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "algo/solvers/orthonormalize.hpp"

namespace gnfast {

using solvers::Small;

// a b
inline Small product(const Small& a, const Small& b) {
    Small out(a.rows, b.cols);
    for (index i = 0; i < a.rows; ++i)
        for (index q = 0; q < a.cols; ++q)
            for (index j = 0; j < b.cols; ++j) out(i, j) += a(i, q) * b(q, j);
    return out;
}

inline View<const double> view(const Small& a) { return {a.values.data(), a.rows, a.cols}; }
inline View<double> view(Small& a) { return {a.values.data(), a.rows, a.cols}; }

// A (m, n) with A^T A = C C^T, C (n, rank): A = Q C^T, and Q = A P^T has orthonormal columns, P C = I. P (rank, n) is the inverse of C's
// rows at the pivots, which are a lower triangle L, and zero at the other samples; it is solved with, not formed.
struct Frame {
    Small factor;  // C
    std::vector<index> pivots;

    index rank() const { return factor.cols; }

    // x P, x (rows, rank): y L = x, put where the pivots are.
    Small times_inverse(Small x) const {
        Small out(x.rows, factor.rows);
        for (index i = 0; i < x.rows; ++i) {
            double* const row = x.values.data() + i * rank();
            for (index p = rank(); p-- > 0;) {
                const index pivot = pivots[std::size_t(p)];
                eliminate(row[p] /= factor(pivot, p), factor.values.data() + pivot * rank(), row, 0, p);
                out(i, pivot) = row[p];
            }
        }
        return out;
    }

    // The first `count` rows of x, times P^T: y L^T = x at the pivots. x A^T -> x Q.
    Small times_inverse_transposed(const Small& x, index count) const {
        Small upper(rank(), rank()), out(count, rank());
        for (index p = 0; p < rank(); ++p)
            for (index s = 0; s <= p; ++s) upper(s, p) = factor(pivots[std::size_t(p)], s);
        for (index i = 0; i < count; ++i) {
            double* const row = out.values.data() + i * rank();
            for (index p = 0; p < rank(); ++p) row[p] = x(i, pivots[std::size_t(p)]);
            for (index p = 0; p < rank(); ++p) eliminate(row[p] /= upper(p, p), upper.values.data() + p * rank(), row, p + 1, rank());
        }
        return out;
    }

   private:
    static void eliminate(double y, const double* of, double* row, index first, index last) {
        for (index s = first; s < last; ++s) row[s] -= y * of[s];
    }
};

// Pivoted Cholesky factorisation of a Gram, of which the lower triangle is read, up to rank `most`. The next column is that of which the
// largest part, relative to its length, lies outside of the span so far; where that is no more than `least`, the rest is in the span.
// Squared lengths are the diagonal of `whole`. Where no column may be refused, least is negative and a pivot that rounding made
// negative is taken for rounding.
inline Frame pivoted(View<const double> gram, index most, double least, View<const double> whole) {
    constexpr double none = -std::numeric_limits<double>::infinity(), eps = std::numeric_limits<double>::epsilon();
    const index n = gram.cols;
    std::vector<double> outside(static_cast<std::size_t>(n)), columns;  // one factor column after another, contiguous
    std::vector<index> pivots;
    for (index i = 0; i < n; ++i) outside[std::size_t(i)] = gram.row(i)[i];
    while (index(pivots.size()) < std::min(most, n)) {
        index next = -1;
        double share = least;
        for (index i = 0; i < n; ++i)
            if (whole.row(i)[i] > 0 && outside[std::size_t(i)] > share * whole.row(i)[i])
                next = i, share = outside[std::size_t(i)] / whole.row(i)[i];
        if (next < 0) break;
        const std::size_t begin = columns.size();
        columns.resize(begin + std::size_t(n));
        double* const column = columns.data() + begin;
        for (index i = 0; i < n; ++i) column[i] = i >= next ? gram.row(i)[next] : gram.row(next)[i];
        for (std::size_t s = 0; s < begin; s += std::size_t(n)) {
            const double* const before = columns.data() + s;
            const double known = before[next];
            for (index i = 0; i < n; ++i) column[i] -= known * before[i];
        }
        const double length = std::sqrt(std::max(outside[std::size_t(next)], eps * whole.row(next)[next]));
        for (index i = 0; i < n; ++i) column[i] /= length;
        for (const index done : pivots) column[done] = 0;
        column[next] = length;
        for (index i = 0; i < n; ++i) outside[std::size_t(i)] -= column[i] * column[i];
        outside[std::size_t(next)] = none;
        pivots.push_back(next);
    }
    const index rank = index(pivots.size());
    Frame out{Small(n, rank), std::move(pivots)};
    for (index i = 0; i < n; ++i)
        for (index p = 0; p < rank; ++p) out.factor(i, p) = columns[std::size_t(p * n + i)];
    return out;
}

// A frame of rank `most` at most. The Gram's rounding, some n eps, looks like a part outside of the span: where no column has ten times
// more, the rest is in the span, so that a frame's vectors are of length one up to a tenth. No jitter: the law of A C^-T is that of Q.
// Of a difference of Grams, `whole` is the larger one, whose rounding it has.
inline Frame frame_of(View<const double> gram, index most, View<const double> whole) {
    return pivoted(gram, most, 10 * double(gram.cols) * std::numeric_limits<double>::epsilon(), whole);
}
inline Frame frame_of(View<const double> gram, index most) { return frame_of(gram, most, gram); }

// A frame of as many columns as there are independent random vectors, which no law leaves dependent: none is refused.
inline Frame full_frame_of(View<const double> gram, View<const double> whole) {
    return pivoted(gram, gram.cols, -1 / std::numeric_limits<double>::epsilon(), whole);
}

}  // namespace gnfast
