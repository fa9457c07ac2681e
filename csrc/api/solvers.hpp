// The eigensolvers without templates.
#pragma once

#include "algo/solvers/options.hpp"
#include "api/engine.hpp"
#include "core/backend.hpp"

namespace gnfast::api {

// vectors (count, size) gets the eigenvectors.
solvers::Result lanczos(Operator& op, const solvers::Options& options, Array vectors);
// preconditioner: an approximate inverse, or nullptr.
solvers::Result davidson(Operator& op, Operator* preconditioner, const solvers::Options& options, Array vectors);
// (op + damping I)^-1 by conjugate gradients: see algo/solvers/cg_inverse.hpp. op and preconditioner, or nullptr, are borrowed.
std::unique_ptr<Operator> make_cg_inverse(Operator& op, Operator* preconditioner, double damping, double tol, index max_iterations);
// vectors (block, size): see algo/solvers/nystrom.hpp.
solvers::Result nystrom(Operator& op, const solvers::Options& options, Array vectors);

// The errors of the first Ritz values, of which residuals are known: see algo/solvers/ritz.hpp.
std::vector<double> ritz_errors(const std::vector<double>& values, const std::vector<double>& residuals);

Asymmetry asymmetry(DType dtype, Array a);

}  // namespace gnfast::api
