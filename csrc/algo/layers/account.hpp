// What a layer takes and gives for each sample, what products with it cost, and what they keep: numbers, and multiply-adds.
#pragma once

#include <algorithm>

#include "core/types.hpp"

namespace gnfast {

struct Account {
    index width = 0;     // behind the layers seen so far
    double kept = 0;     // of the forward pass, a sample
    double live = 0;     // of tangents at one time, a sample and a vector
    double patches = 0;  // of one image, the largest
    double first = 0;    // multiply-adds of the products with the first parameters
    double later = 0;    // of those with all others
    bool moved = false;  // whether parameters came before

    void product(double multiply_adds) {
        (moved ? later : first) += multiply_adds;
        moved = true;
    }
    // A layer's outputs stand behind its inputs; `inside`: numbers that stand beside both.
    void through(index outputs, double inside = 0) {
        live = std::max(live, double(width) + double(outputs) + inside);
        width = outputs;
    }
};

}  // namespace gnfast
