// The facade of the estimators: traces, diagonals, spectral measures and linear systems of any symmetric operator.
#pragma once

#include "algo/solvers/cg.hpp"
#include "algo/solvers/diagonal.hpp"
#include "algo/solvers/probes.hpp"
#include "algo/solvers/quadrature.hpp"
#include "api/engine.hpp"

namespace gnfast::api {

enum class TraceMethod { hutchinson, hutch_plus_plus, xtrace };
solvers::Estimate trace(Operator& op, TraceMethod method, const solvers::EstimatorOptions& options);

// mean and squares (1, size): the estimates' mean and sum of squared deviations.
solvers::DiagonalResult hutchinson_diagonal(Operator& op, const solvers::EstimatorOptions& options, Array mean, Array squares);
solvers::DiagonalResult xdiag(Operator& op, const solvers::EstimatorOptions& options, Array mean, Array squares, Array without);

solvers::Quadrature lanczos_quadrature(Operator& op, const solvers::QuadratureOptions& options);
solvers::Small chebyshev_moments(Operator& op, double centre, double half, const solvers::QuadratureOptions& options);

// vectors (rank, size) gets orthonormal rows; eigenvalues descending.
std::vector<double> nystrom_factors(Operator& op, std::uint64_t seed, Array vectors);
// I + U^T diag(factors) U, vectors (rank, size) borrowed.
std::unique_ptr<Operator> make_low_rank_update(DType dtype, Array vectors, std::vector<double> factors);
// Rows of x (s, size) hold a first guess and become the solutions; preconditioner may be nullptr.
solvers::SolveResult solve(Operator& op, Operator* preconditioner, const solvers::SolveOptions& options, Array b, Array x);

}  // namespace gnfast::api
