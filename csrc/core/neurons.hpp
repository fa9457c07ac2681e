// Layers of random neurons as n samples see them: all that is needed to draw any of them, and to draw them again. Host, double.
#pragma once

#include <concepts>
#include <cstdint>
#include <vector>

#include "core/types.hpp"

namespace gnfast {

// Neuron j of a layer has standard normal g_j (r) and h_j (q), column j of the random matrices of two streams in float32, and
//   z_j = mix g_j + skip a'_j            pre-activations (n), a' of the same neuron one layer below; a_j, d_j = the activation and its
//                                        derivative there
//   b_j = (behind [a_j; h_j] + skip' b'_j) o d_j     derivatives (n rows) of the outputs, ' one layer above; d_j once for the rows of a
//   sample
// Identities are rectangular: there is nothing below or above where the other layer has no neuron j.
struct NeuronLayer {
    index width = 0;
    double skip = 0;
    View<const double> mix{};     // (n, r)
    View<const double> behind{};  // (n rows, n + q), for the way back only
    index fresh = 0;              // q
    std::uint64_t forward_stream = 0, backward_stream = 0;
};

struct Neurons {
    std::uint64_t seed = 0;
    index samples = 0;
    index rows = 0;                     // of derivatives a sample
    index tile = 0;                     // neurons at a time; 0: as many as the backend likes
    View<const double> inputs{};        // (n, d): what lies below the first layer
    View<const double> top{};           // (n rows, k): b of the last layer
    std::vector<NeuronLayer> layers{};  // the outputs last

    // The layers that must be drawn for neurons of `layer`: those that lead to it through skips, and for the way back those above.
    index lowest(index layer) const {
        while (layer > 0 && at(layer).skip != 0) --layer;
        return layer;
    }
    index highest(index layer) const {
        while (layer + 2 < index(layers.size()) && at(layer + 1).skip != 0) ++layer;
        return layer;
    }
    const NeuronLayer& at(index layer) const { return layers[static_cast<std::size_t>(layer)]; }
};

// What algo/ensemble.hpp asks of a backend, all matrices on the host. The sums are over neurons [first, last) of a layer, and the same
// whatever the number of threads. Forward: sums (n + q, n) += [a; h] a^T; head (n, some) gets the activations of the first neurons of
// the layer. Backward: sums (n rows, n rows + r, or n rows) += b [b; g]^T. Of the square blocks the lower triangle counts.
template <class B, class F>
concept DrawsNeurons = requires(B& backend, F formula, const Neurons& neurons, index i, View<double> sums, View<double> head) {
    backend.neurons_forward(formula, neurons, i, i, i, sums, head);
    backend.neurons_backward(formula, neurons, i, i, i, sums);
};

}  // namespace gnfast
