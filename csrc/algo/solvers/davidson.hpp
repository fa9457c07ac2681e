// The low end with a preconditioner: block generalized Davidson with locally optimal restarts ("GD+k",
// Stathopoulos & Saad 1998; LOBPCG, Knyazev 2001, is the case of the shortest basis).
#pragma once

#include <algorithm>
#include <limits>

#include "algo/solvers/ritz.hpp"

namespace gnfast::solvers {

// Orthonormal coefficients of the 2 `block` lowest Ritz vectors and of the `block` lowest of the step before.
inline Small restart_coefficients(const Ritz& ritz, const Small& before, index done, index block) {
    const index lowest = std::min(2 * block, done - 1);
    Small all(lowest + before.rows, done);
    std::copy_n(ritz.vectors.values.begin(), lowest * done, all.values.begin());
    index rows = lowest;
    for (index i = 0; i < before.rows; ++i) {
        std::vector<double> v(static_cast<std::size_t>(done), 0.0);
        for (index q = 0; q < before.cols; ++q) v[static_cast<std::size_t>(q)] = before(i, q);
        for (int pass = 0; pass < 2; ++pass)
            for (index j = 0; j < rows; ++j) {
                double dot = 0;
                for (index q = 0; q < done; ++q) dot += v[static_cast<std::size_t>(q)] * all(j, q);
                for (index q = 0; q < done; ++q) v[static_cast<std::size_t>(q)] -= dot * all(j, q);
            }
        double norm = 0;
        for (const double value : v) norm += value * value;
        norm = std::sqrt(norm);
        if (norm < 1e-6) continue;
        for (index q = 0; q < done; ++q) all(rows, q) = v[static_cast<std::size_t>(q)] / norm;
        ++rows;
    }
    return leading(all, rows);
}

// Smallest eigenpairs of the symmetric A; precondition(r, out) applies an approximate inverse of A to a block.
//
// Basis Q (orthonormal rows) with A Q kept, H = Q A Q^T. Each step: Ritz vectors X = Y Q, residuals
// R = Y A Q - theta X; the basis grows by N^-1 R of the lowest ones. A restart keeps the lowest Ritz vectors of this step and of the
// step before, which is what makes the short recurrence nearly as good as the full basis.
template <class B, class T>
Result davidson(B& backend, const Apply<T>& apply, const Apply<T>& precondition, index size, const Options& options, View<T> vectors) {
    Blocks<B, T> blocks(backend, options.seed);
    const index block = std::min(std::max(options.block, options.count), size);
    const index max_basis = std::min(size, std::max(options.max_basis, 4 * block));
    auto basis_buffer = backend.template allocate<T>(2 * max_basis * size);
    auto work_buffer = backend.template allocate<T>(4 * block * size);
    const View<T> basis(basis_buffer.data(), max_basis, size), image(basis_buffer.data() + max_basis * size, max_basis, size);
    const View<T> work(work_buffer.data(), block, size), spare(work_buffer.data() + block * size, 3 * block, size);
    Small h(max_basis, max_basis), before;
    Result result;
    double norm = options.norm, best = std::numeric_limits<double>::infinity();
    index done = 0, width = block, stale = 0;

    // A random start with the preconditioner applied lies near the low end already.
    blocks.fill_random(spare.row_range(0, block));
    precondition(View<const T>(spare.row_range(0, block)), work.row_range(0, block));
    while (true) {
        // The new directions, in the first rows of `work`, join the basis.
        const View<T> fresh = work.row_range(0, width);
        blocks.project_out(View<const T>(basis.row_range(0, done)), fresh);
        blocks.orthonormalize(View<const T>(basis.row_range(0, done)), fresh, 0);
        blocks.project_out(View<const T>(basis.row_range(0, done)), fresh);
        backend.copy(View<const T>(fresh), basis.row_range(done, width));
        apply(View<const T>(fresh), image.row_range(done, width));
        result.products += width;
        const Small c = blocks.inner(View<const T>(image.row_range(done, width)), View<const T>(basis.row_range(0, done + width)));
        for (index i = 0; i < width; ++i)
            for (index j = 0; j < done + width; ++j) {
                if (!std::isfinite(c(i, j))) throw std::domain_error(nonfinite_product);
                h(done + i, j) = h(j, done + i) = c(i, j);
            }
        done += width;

        const Ritz ritz = rayleigh_ritz(backend, h, done, false);
        norm = std::max(norm, std::abs(ritz.values.back()));
        const index lowest = std::min(block, done);
        const Small y = leading(ritz.vectors, lowest);
        const View<T> residual = work.row_range(0, lowest), x = spare.row_range(0, lowest);
        Small scaled = y;
        for (index i = 0; i < lowest; ++i)
            for (index q = 0; q < done; ++q) scaled(i, q) *= -ritz.values[static_cast<std::size_t>(i)];
        blocks.combine(1, y, View<const T>(image.row_range(0, done)), 0, residual);
        blocks.combine(1, scaled, View<const T>(basis.row_range(0, done)), 1, residual);
        std::vector<double> residuals;
        backend.row_dots(View<const T>(residual), View<const T>(residual), residuals);
        for (double& value : residuals) value = std::sqrt(value);

        const double floor = double(std::numeric_limits<T>::epsilon()) * norm * 4;
        const bool everything = done == size;
        result.converged = everything || within(ritz, residuals, options.count, options.tol, floor);
        report(options.monitor, options.stage, double(result.products), 0);
        // Residuals that stop falling have met rounding: say so instead of going on for ever.
        const double worst = *std::max_element(residuals.begin(), residuals.begin() + options.count);
        stale = worst < 0.9 * best ? 0 : stale + 1;
        best = std::min(best, worst);
        const bool stuck = stale > 60;
        if (result.converged || stuck || (options.max_products > 0 && result.products + block > options.max_products)) {
            result.values.assign(ritz.values.begin(), ritz.values.begin() + options.count);
            result.residuals.assign(residuals.begin(), residuals.begin() + options.count);
            result.reason = everything         ? "the basis spans the whole space"
                            : result.converged ? "tolerance met"
                            : stuck            ? "the residual stopped falling"
                                               : "max_products reached";
            blocks.combine(1, leading(ritz.vectors, options.count), View<const T>(basis.row_range(0, done)), 0,
                           vectors.row_range(0, options.count));
            return result;
        }
        width = std::min(lowest, size - done);
        backend.copy(View<const T>(residual), x);
        precondition(View<const T>(x.row_range(0, width)), work.row_range(0, width));
        if (done + width > max_basis) {
            const Small kept = restart_coefficients(ritz, before, done, block);
            const View<T> old(spare.data, kept.rows, size);
            for (const View<T>& part : {basis, image}) {
                blocks.combine(1, kept, View<const T>(part.row_range(0, done)), 0, old);
                backend.copy(View<const T>(old), part.row_range(0, kept.rows));
            }
            Small small(done, done);
            for (index i = 0; i < done; ++i)
                for (index j = 0; j < done; ++j) small(i, j) = h(i, j);
            Small left = Blocks<B, T>::multiply(kept, small);
            std::fill(h.values.begin(), h.values.end(), 0.0);
            for (index i = 0; i < kept.rows; ++i)
                for (index j = 0; j < kept.rows; ++j)
                    for (index q = 0; q < done; ++q) h(i, j) += left(i, q) * kept(j, q);
            done = kept.rows;
            before = Small();
        } else {
            before = y;
        }
    }
}

}  // namespace gnfast::solvers
