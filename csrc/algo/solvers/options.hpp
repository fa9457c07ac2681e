// What a caller asks of an eigensolver and what it answers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/monitor.hpp"
#include "core/types.hpp"

namespace gnfast::solvers {

// out = A v, a block of vectors, one a row.
template <class T>
using Apply = std::function<void(View<const T>, View<T>)>;

constexpr const char* nonfinite_product = "a product with the operator gave NaN or infinite values; check its entries";

struct Options {
    index count = 1;         // eigenpairs wanted
    bool largest = true;     // the upper end of the spectrum, or the lower
    index block = 1;         // vectors a product
    index max_basis = 0;     // vectors kept before a restart
    index max_products = 0;  // vectors multiplied before giving up
    double tol = 0;          // relative accuracy of the eigenvalues
    double norm = 0;         // an estimate of |A| if one is known; sets the floor of rounding errors
    std::uint64_t seed = 0;
    Monitor monitor;
    const char* stage = "eigenvalues";
};

struct Result {
    std::vector<double> values;     // from the end that was asked for, inwards
    std::vector<double> residuals;  // |A y - value y|, y of norm one: an eigenvalue lies that near to each value
    index products = 0;             // vectors multiplied
    bool converged = false;
    std::string reason;
};

}  // namespace gnfast::solvers
