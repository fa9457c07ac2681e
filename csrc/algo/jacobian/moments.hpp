// The second moments of which the Kronecker factors of K-FAC are made.
#pragma once

#include <algorithm>
#include <span>

#include "core/types.hpp"

namespace gnfast {

// Of the layer with parameters from `offset` on: see Convolution::add_input_moment and add_output_moment for the two.
struct Moments {
    index offset;
    View<double> inputs, outputs;
};

// Those of the layer with parameters from `offset` on, if they are wanted.
inline const Moments* find(std::span<const Moments> all, index offset) {
    const auto one = std::find_if(all.begin(), all.end(), [&](const Moments& m) { return m.offset == offset; });
    return one == all.end() ? nullptr : &*one;
}

}  // namespace gnfast
