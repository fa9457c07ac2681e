// Randomized Nystrom approximation of a positive semi-definite operator, as a preconditioner (Frangella, Tropp & Udell 2023).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "algo/solvers/probes.hpp"
#include "algo/solvers/small.hpp"

namespace gnfast::solvers {

// A ~ U^T diag(values) U from one product with an orthonormal block W (rank, size): (A W)^T (W A W^T)^-1 (A W), with a shift
// nu = sqrt(size) eps |A W| that keeps the small matrix positive definite and is taken off again. vectors (rank, size) gets the
// orthonormal rows U; values descend.
template <class B, class T>
std::vector<double> nystrom_factors(B& backend, const Apply<T>& apply, index size, std::uint64_t seed, View<T> vectors) {
    Blocks<B, T> blocks(backend, seed);
    const index rank = vectors.rows;
    auto buffer = backend.template allocate<T>(rank * size);
    const View<T> w(buffer.data(), rank, size);
    const View<const T> none(buffer.data(), 0, size);
    fill_probes(backend, Probe::sphere, seed, 0, w);
    blocks.orthonormalize_now(none, w, 0);
    apply(View<const T>(w), vectors);
    double norm = 0;
    for (const double square : finite_dots<B, T>(backend, vectors, vectors)) norm += square;
    norm = std::sqrt(norm);
    std::vector<double> values(static_cast<std::size_t>(rank));
    if (norm == 0) {  // A vanishes on a random block: it is zero
        backend.copy(View<const T>(w), vectors);
        return values;
    }
    const double shift = std::sqrt(double(size)) * apply.resolution * norm;
    const std::vector<double> shifts(static_cast<std::size_t>(rank), shift), one(static_cast<std::size_t>(rank), 1.0);
    backend.combine_rows(shifts, View<const T>(w), one, vectors);  // Y = A W + nu W
    // M = W Y^T = E diag(m) E^T; M^-1/2 Y has the approximation's Gram matrix.
    Small m = blocks.inner_now(View<const T>(w), View<const T>(vectors));
    for (index i = 0; i < rank; ++i)
        for (index j = 0; j < i; ++j) m(i, j) = m(j, i) = (m(i, j) + m(j, i)) / 2;
    std::vector<double> eigenvalues;
    backend.small_eigh(m.values, rank, eigenvalues);
    if (eigenvalues.front() < -10 * shift)
        throw not_positive_definite_error(
            "op is not positive semi-definite, which the Nystrom preconditioner needs; pass preconditioner=None");
    for (index i = 0; i < rank; ++i)
        for (index q = 0; q < rank; ++q) m(i, q) /= std::sqrt(std::max(eigenvalues[static_cast<std::size_t>(i)], shift / 10));
    blocks.transform(m, vectors);
    // F = C U with orthonormal U, then the eigenvectors of C^T C = U F^T F U^T turn U into those of F^T F.
    const Small c = blocks.orthonormalize_now(none, vectors, apply.resolution * std::sqrt(shift));
    Small gram(rank, rank);
    for (index q = 0; q < rank; ++q)
        for (index i = 0; i < rank; ++i)
            for (index j = 0; j < rank; ++j) gram(i, j) += c(q, i) * c(q, j);
    backend.small_eigh(gram.values, rank, eigenvalues);
    Small turn(rank, rank);
    for (index i = 0; i < rank; ++i) {
        const index from = rank - 1 - i;
        values[static_cast<std::size_t>(i)] = std::max(0.0, eigenvalues[static_cast<std::size_t>(from)] - shift);
        for (index q = 0; q < rank; ++q) turn(i, q) = gram(from, q);
    }
    blocks.transform(turn, vectors);
    return values;
}

// out = v + U^T diag(factors) U v, each row: the inverse of A + damping I up to scale for
// factors = (values_last + damping) / (values + damping) - 1.
template <class B, class T>
void apply_low_rank_update(B& backend, View<const T> u, std::span<const double> factors, View<const T> v, View<T> out) {
    [[maybe_unused]] const auto exact = backend.full_precision();
    auto buffer = backend.template allocate<T>(u.rows * v.rows);
    const View<T> c(buffer.data(), u.rows, v.rows);
    backend.gemm(Op::none, Op::transpose, T(1), u, v, T(0), c);
    const std::vector<double> none(factors.size());
    backend.combine_rows(none, View<const T>(c), factors, c);
    backend.copy(v, out);
    backend.gemm(Op::transpose, Op::none, T(1), View<const T>(c), u, T(1), out);
}

}  // namespace gnfast::solvers
