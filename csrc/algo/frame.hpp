// Tall matrices seen through their Gram matrices: orthonormal frames by pivoted Cholesky factorisation, on the host.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
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

// A (m, n) with A^T A = C C^T, C (n, rank): A = Q C^T, and Q = A P^T has orthonormal columns, P C = I.
struct Frame {
    Small factor;   // C
    Small inverse;  // P (rank, n)
};

// From the lower triangle of A^T A; rank at most `most`. The next column is that of which the largest part, relative to its length, lies
// outside of the span so far. The Gram's rounding, some n eps, looks like such a part: where no column has ten times more, the rest
// is in the span, so that a frame's vectors are of length one up to a tenth. No jitter: the law of A C^-T is that of Q.
inline Frame frame_of(View<const double> gram, index most, bool with_inverse) {
    const index n = gram.cols;
    const double least = 10 * double(n) * std::numeric_limits<double>::epsilon();
    const auto entry = [&](index i, index j) { return i >= j ? gram.row(i)[j] : gram.row(j)[i]; };
    std::vector<double> outside(static_cast<std::size_t>(n)), columns;  // one factor column after another, contiguous
    std::vector<index> pivots;
    for (index i = 0; i < n; ++i) outside[std::size_t(i)] = entry(i, i);
    while (index(pivots.size()) < std::min(most, n)) {
        index next = -1;
        double share = least;
        for (index i = 0; i < n; ++i)
            if (entry(i, i) > 0 && outside[std::size_t(i)] > share * entry(i, i)) next = i, share = outside[std::size_t(i)] / entry(i, i);
        if (next < 0) break;
        const std::size_t begin = columns.size();
        columns.resize(begin + std::size_t(n));
        double* const column = columns.data() + begin;
        for (index i = 0; i < n; ++i) column[i] = entry(i, next);
        for (std::size_t s = 0; s < begin; s += std::size_t(n)) {
            const double* const before = columns.data() + s;
            const double known = before[next];
            for (index i = 0; i < n; ++i) column[i] -= known * before[i];
        }
        const double length = std::sqrt(outside[std::size_t(next)]);
        for (index i = 0; i < n; ++i) column[i] /= length;
        for (const index done : pivots) column[done] = 0;
        column[next] = length;
        for (index i = 0; i < n; ++i) outside[std::size_t(i)] -= column[i] * column[i];
        outside[std::size_t(next)] = 0;
        pivots.push_back(next);
    }
    const index rank = index(pivots.size());
    Frame out{Small(n, rank), Small(with_inverse ? rank : 0, n)};
    for (index i = 0; i < n; ++i)
        for (index p = 0; p < rank; ++p) out.factor(i, p) = columns[std::size_t(p * n + i)];
    for (index p = 0; p < out.inverse.rows; ++p) {  // forward substitution in the triangle of the pivots
        const index row = pivots[std::size_t(p)];
        for (index s = 0; s < p; ++s)
            for (index j = 0; j < n; ++j) out.inverse(p, j) -= out.factor(row, s) * out.inverse(s, j);
        out.inverse(p, row) += 1;
        for (index j = 0; j < n; ++j) out.inverse(p, j) /= out.factor(row, p);
    }
    return out;
}

}  // namespace gnfast
