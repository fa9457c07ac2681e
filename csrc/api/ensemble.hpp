// Ensembles of networks without weights, without templates.
#pragma once

#include "algo/ensemble.hpp"
#include "api/engine.hpp"

namespace gnfast::api {

// Sample number `sample` of the law: the lower triangle of its Gram dual k and the outputs (n, widths.back()), of x (n, d), whose
// Gram matrix is given. All in float64.
void sample_network(const NetworkLaw& law, const std::string& activation, double slope, Array x, Array gram, std::uint64_t sample, Array k,
                    Array outputs, const Monitor& monitor);

}  // namespace gnfast::api
