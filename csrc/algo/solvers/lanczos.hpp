// Block Lanczos with full reorthogonalisation and thick restart (Golub & Underwood 1977; Wu & Simon 2000).
#pragma once

#include <algorithm>
#include <limits>

#include "algo/solvers/ritz.hpp"

namespace gnfast::solvers {

// Eigenpairs at one end of the symmetric A of the given size; vectors (count, size) gets the eigenvectors.
//
// Basis Q (orthonormal rows), H = Q A Q^T. Each step: W = A Q_j; C = W Q^T into H; W -= C Q; W = R Q_{j+1}.
// Only the newest block has a part of A Q outside the basis, R Q_{j+1}: a Ritz vector's residual is |R^T y_last|.
template <class B, class T>
Result lanczos(B& backend, const Apply<T>& apply, index size, const Options& options, View<T> vectors) {
    Blocks<B, T> blocks(backend, options.seed);
    const index block = std::min(options.block, size), count = options.count;
    const index max_basis = std::min(size, std::max(options.max_basis, count + 2 * block));
    auto basis_buffer = backend.template allocate<T>((max_basis + block) * size);
    auto next_buffer = backend.template allocate<T>(block * size);
    const View<T> basis(basis_buffer.data(), max_basis + block, size);
    Small h(max_basis + block, max_basis + block);
    Result result;

    index done = 0;       // rows of the basis that A has been applied to
    index width = block;  // of the newest block
    blocks.fill_random(basis.row_range(0, block));
    blocks.orthonormalize(View<const T>(basis.row_range(0, 0)), basis.row_range(0, block), 0);
    double norm = options.norm;
    while (true) {
        const View<T> w(next_buffer.data(), width, size);
        apply(View<const T>(basis.row_range(done, width)), w);
        result.products += width;
        const View<const T> known(basis.row_range(0, done + width));
        const Small c = blocks.project_out(known, w);
        for (index i = 0; i < width; ++i)
            for (index j = 0; j < done + width; ++j) {
                if (!std::isfinite(c(i, j))) throw std::domain_error(nonfinite_product);
                h(done + i, j) = h(j, done + i) = c(i, j);
            }
        const index last = done;
        done += width;
        const Ritz ritz = rayleigh_ritz(backend, h, done, options.largest);
        for (const double value : ritz.values) norm = std::max(norm, std::abs(value));
        const double floor = double(std::numeric_limits<T>::epsilon()) * norm * 4;
        const index room = size - done;
        Small r;
        if (room >= width) {
            r = blocks.orthonormalize(known, w, floor);
        } else if (room > 0) {
            // Fewer directions are left than the block has vectors: any orthonormal basis of them will do.
            auto old_buffer = backend.template allocate<T>(width * size);
            const View<T> old(old_buffer.data(), width, size), rest = w.row_range(0, room);
            backend.copy(View<const T>(w), old);
            for (index i = 0; i < room; ++i) blocks.fill_random(rest.row_range(i, 1));
            blocks.project_out(known, rest);
            blocks.orthonormalize(known, rest, 0);
            r = blocks.inner(View<const T>(old), View<const T>(rest));
        }
        width = std::min(block, room);
        std::vector<double> residuals(static_cast<std::size_t>(done));
        for (index i = 0; i < done && width > 0; ++i) {
            double total = 0;
            for (index q = 0; q < r.cols; ++q) {
                double part = 0;
                for (index p = 0; p < r.rows; ++p) part += r(p, q) * ritz.vectors(i, last + p);
                total += part * part;
            }
            residuals[static_cast<std::size_t>(i)] = std::sqrt(total);
        }
        const bool everything = done == size;
        result.converged = everything || within(ritz, residuals, count, options.tol, floor);
        report(options.monitor, options.stage, double(result.products), 0);
        const bool stop = result.converged || (options.max_products > 0 && result.products + width > options.max_products);
        if (stop) {
            const index available = std::min(count, done);
            result.values.assign(ritz.values.begin(), ritz.values.begin() + available);
            result.residuals.assign(residuals.begin(), residuals.begin() + available);
            result.reason = everything ? "the basis spans the whole space" : result.converged ? "tolerance met" : "max_products reached";
            blocks.combine(1, leading(ritz.vectors, available), known, 0, vectors.row_range(0, available));
            return result;
        }
        if (done + width > max_basis) {
            // Thick restart: wanted Ritz vectors and as many beyond them as keep the convergence going.
            const index keep = std::min(done - 1, std::max(count, (max_basis - width) / 2));
            auto kept_buffer = backend.template allocate<T>(keep * size);
            const View<T> kept(kept_buffer.data(), keep, size);
            blocks.combine(1, leading(ritz.vectors, keep), known, 0, kept);
            backend.copy(View<const T>(kept), basis.row_range(0, keep));
            std::fill(h.values.begin(), h.values.end(), 0.0);
            for (index i = 0; i < keep; ++i) h(i, i) = ritz.values[static_cast<std::size_t>(i)];
            done = keep;
        }
        backend.copy(View<const T>(w.row_range(0, width)), basis.row_range(done, width));
    }
}

}  // namespace gnfast::solvers
