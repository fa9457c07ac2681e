// Shapes for the tests of images and of normalisation, on the processor and on a GPU.
#pragma once

#include <vector>

#include "core/norm.hpp"
#include "core/windows.hpp"

namespace gnfast::test {

inline Axis axis(index size, index kernel, index stride, index dilation, index before, index behind) {
    return {size, kernel, stride, dilation, before, (size + before + behind - dilation * (kernel - 1) - 1) / stride + 1};
}

// Awkward ones: nothing divides, one pixel, a kernel as large as the image, padding wider than what it pads, around the circle.
inline std::vector<Windows> window_cases() {
    return {{3, axis(7, 3, 1, 1, 1, 1), axis(6, 3, 1, 1, 1, 1), false},  {2, axis(7, 3, 2, 1, 1, 1), axis(6, 2, 3, 2, 2, 2), false},
            {1, axis(1, 1, 1, 1, 0, 0), axis(1, 1, 1, 1, 0, 0), false},  {2, axis(1, 3, 1, 1, 1, 1), axis(9, 4, 2, 1, 0, 3), false},
            {2, axis(4, 4, 1, 1, 0, 0), axis(5, 5, 1, 1, 0, 0), false},  {3, axis(4, 3, 1, 1, 1, 1), axis(5, 3, 1, 2, 2, 2), true},
            {1, axis(3, 3, 2, 1, 3, 3), axis(4, 2, 1, 1, 4, 4), true},   {2, axis(5, 1, 2, 1, 0, 0), axis(5, 1, 2, 1, 0, 0), false},
            {5, axis(40, 3, 1, 1, 1, 1), axis(37, 3, 1, 1, 1, 1), false}};
}

// Batches of three pixels and of one, more channels than are taken at a time; whole samples, and two groups of a sample.
inline std::vector<NormShape> norm_cases() {
    return {{12, 4, 3, 0}, {1, 1, 1, 0}, {71, 71, 1, 0}, {200, 2, 100, 0}, {10, 10, 1, 10}, {14, 7, 1, 7}};
}

}  // namespace gnfast::test
