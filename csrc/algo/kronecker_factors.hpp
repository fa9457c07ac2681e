// The second moments of which the Kronecker factors of K-FAC are made.
#pragma once

#include <algorithm>
#include <span>

#include "algo/gauss_newton.hpp"

namespace gnfast {

// Of the layer with parameters from `offset` on: see Convolution::add_input_moment and add_output_moment for the two.
struct Moments {
    index offset;
    View<double> inputs, outputs;
};

// The inputs' moments over the samples and the outputs' over the rows sqrt(scale) R_i^T J, for layers with a weight matrix: no row of the
// Jacobian is made. 2 n fan_in^2 + 2 n r fan_out^2 flops a dense layer, after the pass backward.
template <class B, class T>
void kronecker_factors(GaussNewton<B, T>& owner, std::span<const Moments> all) {
    const Network<B, T>& network = owner.network();
    B& backend = network.backend();
    for (const Moments& one : all) backend.fill(one.inputs, 0.0), backend.fill(one.outputs, 0.0);
    const auto find = [&](index offset) {
        return std::find_if(all.begin(), all.end(), [&](const Moments& one) { return one.offset == offset; });
    };
    if (network.is_feedforward_dense()) {
        const auto rows = owner.rows(true);
        Workspace<B, T> work(backend);
        for (std::size_t l = 0; l < network.layers().size(); ++l) {
            const auto* dense = std::get_if<layers::Dense<T>>(&network.layers()[l]);
            if (!dense) continue;
            const auto one = find(dense->offset);
            if (one == all.end()) continue;
            dense->add_input_moment(work, owner.pass().kept(l, 0, owner.samples()), one->inputs);
            dense->add_output_moment(work, Batch<const T>(rows->rows(l), 1, 0), one->outputs);
        }
        return;
    }
    owner.for_cotangents([&](const auto& layer, const layers::Kept<T>& kept, Batch<const T> g, bool first, Workspace<B, T>& work) {
        if constexpr (std::decay_t<decltype(layer)>::has_moments) {
            const auto one = find(layer.offset);
            if (one == all.end()) return;
            if (first) layer.add_input_moment(work, kept, one->inputs);
            layer.add_output_moment(work, g, one->outputs);
        }
    });
}

}  // namespace gnfast
