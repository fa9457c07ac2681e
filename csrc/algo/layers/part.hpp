// A part of the parameters.
#pragma once

#include <limits>

#include "core/types.hpp"

namespace gnfast {

// The layers whose parameters lie from `first` up to `last` in the flat vector: all, or one of them. Vectors of a part begin at `first`.
struct Part {
    index first = 0, last = std::numeric_limits<index>::max();

    bool holds(index offset) const { return first <= offset && offset < last; }
    // The layer with its parameters where vectors of the part have them.
    template <class L>
    L within(L layer) const {
        layer.offset -= first;
        return layer;
    }
};

}  // namespace gnfast
