// Linear algebra of small matrices on the host, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "algo/solvers/orthonormalize.hpp"

namespace gnfast::solvers {

inline double dot(const Small& a, index i, const Small& b, index j) {
    double total = 0;
    for (index q = 0; q < a.cols; ++q) total += a(i, q) * b(j, q);
    return total;
}

// Row i is the unit vector orthogonal to all rows of c (m, m) but row i: column i of c^-1, normalised. Gaussian elimination with
// partial pivoting; a pivot at the level of rounding is replaced by that level, which leaves a vector that is orthogonal up to rounding.
inline Small excluding(Small c) {
    const index m = c.rows;
    double scale = 0;
    for (const double x : c.values) scale = std::max(scale, std::abs(x));
    const double floor = std::max(scale * 1e-16, 1e-300);
    Small x(m, m);  // c x = I
    for (index i = 0; i < m; ++i) x(i, i) = 1;
    const auto swap_rows = [m](Small& a, index i, index j) {
        for (index q = 0; q < m; ++q) std::swap(a(i, q), a(j, q));
    };
    for (index at = 0; at < m; ++at) {
        index best = at;
        for (index i = at + 1; i < m; ++i)
            if (std::abs(c(i, at)) > std::abs(c(best, at))) best = i;
        if (best != at) swap_rows(c, at, best), swap_rows(x, at, best);
        if (std::abs(c(at, at)) < floor) c(at, at) = floor;
        for (index i = at + 1; i < m; ++i) {
            const double factor = c(i, at) / c(at, at);
            if (factor == 0) continue;
            for (index q = at; q < m; ++q) c(i, q) -= factor * c(at, q);
            for (index q = 0; q < m; ++q) x(i, q) -= factor * x(at, q);
        }
    }
    Small out(m, m);
    std::vector<double> y(static_cast<std::size_t>(m));
    for (index column = 0; column < m; ++column) {
        double norm = 0;
        for (index i = m; i-- > 0;) {
            double value = x(i, column);
            for (index q = i + 1; q < m; ++q) value -= c(i, q) * y[static_cast<std::size_t>(q)];
            value /= c(i, i);
            // Several vanishing pivots multiply: scale down before they overflow, the direction is all that counts.
            if (std::abs(value) > 1e150) {
                for (double& known : y) known *= 1e-150;
                for (index q = 0; q < m; ++q) x(q, column) *= 1e-150;
                value *= 1e-150;
            }
            y[static_cast<std::size_t>(i)] = value;
        }
        for (const double value : y) norm += value * value;
        norm = norm > 0 ? std::sqrt(norm) : 1;
        for (index q = 0; q < m; ++q) out(column, q) = y[static_cast<std::size_t>(q)] / norm;
    }
    return out;
}

}  // namespace gnfast::solvers
