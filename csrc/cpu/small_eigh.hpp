// Eigenvalues of a solver's projected matrix by the host's LAPACK, which every backend uses: such matrices are small.
#pragma once

#include <vector>

#include "core/types.hpp"

namespace gnfast::cpu {

// Eigenvalues ascending in w, eigenvectors in the rows of a (size, size), which is overwritten.
void small_eigh(std::vector<double>& a, index size, std::vector<double>& w);

}  // namespace gnfast::cpu
