// Rayleigh-Ritz on a projected matrix: values and small vectors from the end that is asked for, and when to stop.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "algo/solvers/options.hpp"
#include "algo/solvers/orthonormalize.hpp"

namespace gnfast::solvers {

struct Ritz {
    std::vector<double> values;  // wanted end first
    Small vectors;               // one a row
};

template <class B>
Ritz rayleigh_ritz(B& backend, const Small& h, index size, const Options& options) {
    std::vector<double> a(static_cast<std::size_t>(size * size)), w;
    for (index i = 0; i < size; ++i)
        for (index j = 0; j < size; ++j) a[static_cast<std::size_t>(i * size + j)] = (h(i, j) + h(j, i)) / 2;
    backend.small_eigh(a, size, w);
    Ritz ritz{std::vector<double>(static_cast<std::size_t>(size)), Small(size, size)};
    for (index i = 0; i < size; ++i) {
        // Both ends: by turns, the upper first.
        const bool high = options.both ? i % 2 == 0 : options.largest;
        const index rank = options.both ? i / 2 : i, from = high ? size - 1 - rank : rank;
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

// The error of Ritz value i is at most its residual r_i. Of a cluster of eigenvalues whose Ritz values are all there it is also at most the
// sum of r_j^2 over the cluster / the gap to the rest of the spectrum (Kato & Temple; Parlett, "The symmetric eigenvalue problem",
// chapter 11). Ritz values within 10 r are one cluster; where there are fewer of them than eigenvalues in it, they may sit anywhere in it,
// so that its width is added. The gap is to the nearest other Ritz value, halved since eigenvalues may be nearer. Residuals are known of
// the first Ritz values; a cluster that goes on beyond them is not known well enough for the second bound.
inline double ritz_error(const std::vector<double>& values, const std::vector<double>& residuals, std::size_t i) {
    double squares = 0, width = 0, gap = std::numeric_limits<double>::infinity();
    for (std::size_t j = 0; j < values.size(); ++j) {
        const double distance = std::abs(values[j] - values[i]);
        if (distance > 10 * residuals[i]) {
            gap = std::min(gap, distance / 2);
            // Where all residuals are known: one that reaches as far as here has not told yet what is between.
            if (residuals.size() == values.size() && residuals[j] >= distance) return residuals[i];
        } else {
            if (j >= residuals.size()) return residuals[i];
            squares += residuals[j] * residuals[j];
            width = std::max(width, distance);
        }
    }
    return std::isfinite(gap) ? std::min(residuals[i], width + squares / gap) : residuals[i];
}

// The largest of the residuals of the wanted values, for those who watch; NaN before all are there.
inline double worst_residual(const std::vector<double>& residuals, index count) {
    if (index(residuals.size()) < count) return unknown_residual;
    return *std::max_element(residuals.begin(), residuals.begin() + count);
}

// Whether Ritz value i is within tolerance; `floor` is what rounding leaves of a residual.
inline bool is_within(const Ritz& ritz, const std::vector<double>& residuals, std::size_t i, double tol, double floor) {
    return residuals[i] <= floor || ritz_error(ritz.values, residuals, i) <= tol * std::abs(ritz.values[i]);
}

// Whether the wanted values are.
inline bool within(const Ritz& ritz, const std::vector<double>& residuals, index count, double tol, double floor) {
    if (index(residuals.size()) < count) return false;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
        if (!is_within(ritz, residuals, i, tol, floor)) return false;
    return true;
}

// Whether a search is over: within tolerance; of a search beyond bars, once each is answered. A Ritz value r is compared with its room, the
// distance from the bar: m steps from a random start leave r near spread / m, and amplify what lies beyond the bar against the rest by
// cosh(2 m sqrt(room / spread))^2, which 4 r <= room makes cosh(4 sqrt(m))^2: 1e8 for 6. `early`: fewer steps than asked for.
inline bool settled(const Ritz& ritz, const std::vector<double>& residuals, const Options& options, double floor, bool early) {
    if (options.bars.empty()) return !early && within(ritz, residuals, options.count, options.tol, floor);
    if (residuals.size() < options.bars.size()) return false;
    bool all = !early;
    for (std::size_t i = 0; i < options.bars.size(); ++i) {
        const bool upper = options.both ? i % 2 == 0 : options.largest;
        const double room = (upper ? 1 : -1) * (options.bars[i] - ritz.values[i]);
        if (room < 0) return true;
        all = all && (4 * residuals[i] <= room || is_within(ritz, residuals, i, options.tol, floor));
    }
    return all;
}

}  // namespace gnfast::solvers
