// Rayleigh-Ritz on a projected matrix: values and small vectors from the end that is asked for, and when to stop.
#pragma once

#include <cmath>

#include "algo/solvers/options.hpp"
#include "algo/solvers/orthonormalize.hpp"

namespace gnfast::solvers {

struct Ritz {
    std::vector<double> values;  // wanted end first
    Small vectors;               // one a row
};

template <class B>
Ritz rayleigh_ritz(B& backend, const Small& h, index size, bool largest) {
    std::vector<double> a(static_cast<std::size_t>(size * size)), w;
    for (index i = 0; i < size; ++i)
        for (index j = 0; j < size; ++j) a[static_cast<std::size_t>(i * size + j)] = (h(i, j) + h(j, i)) / 2;
    backend.small_eigh(a, size, w);
    Ritz ritz{std::vector<double>(static_cast<std::size_t>(size)), Small(size, size)};
    for (index i = 0; i < size; ++i) {
        const index from = largest ? size - 1 - i : i;
        ritz.values[static_cast<std::size_t>(i)] = w[static_cast<std::size_t>(from)];
        std::copy_n(a.begin() + from * size, size, ritz.vectors.values.begin() + i * size);
    }
    return ritz;
}

// The first `rows` Ritz vectors as coefficients.
inline Small leading(const Small& vectors, index rows) {
    Small out(rows, vectors.cols);
    std::copy_n(vectors.values.begin(), rows * vectors.cols, out.values.begin());
    return out;
}

// Counts how often in a row the wanted values have been within tolerance; `floor` is what rounding leaves of a residual.
inline bool within(const Ritz& ritz, const std::vector<double>& residuals, index count, double tol, double floor) {
    if (index(residuals.size()) < count) return false;
    for (index i = 0; i < count; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const double residual = residuals[at], value = std::abs(ritz.values[at]);
        double gap = 0;  // to the first value that is clearly another one
        for (std::size_t j = static_cast<std::size_t>(count); j < ritz.values.size(); ++j) {
            gap = std::abs(ritz.values[j] - ritz.values[at]);
            if (gap > 10 * residual) break;
        }
        if (residual > floor && ritz_error(residual, gap / 2) > tol * value) return false;
    }
    return true;
}

}  // namespace gnfast::solvers
