// Which values a normalisation layer takes together, and which of them share a weight and a bias.
#pragma once

#include <cmath>

#include "core/types.hpp"

namespace gnfast {

struct NormShape {
    index width;     // values of a sample
    index channels;  // entries of weight and bias
    index inner;     // consecutive values of one channel: value q is of channel q / inner % channels
    index group;     // consecutive values of one sample that are normalised together; 0: those of a channel, of all samples

    GNFAST_HD index repeats() const { return width / (channels * inner); }
    GNFAST_HD index groups() const { return group ? width / group : channels; }  // of a sample, or of the batch
};

namespace norm {

// What centred values are multiplied by, from the sum of their squares. Equal values have none, but their mean is rounded.
GNFAST_HD inline double inverse_deviation(double squares, double count, double mean, double eps) {
    const double variance = squares / count, rounding = 8.9e-16 * mean;  // 4 eps: sums are in parts
    return 1 / std::sqrt((variance > rounding * rounding ? variance : 0) + eps);
}

template <class T>
GNFAST_HD T standardize(T x, double mean, double inverse) {
    return T((double(x) - mean) * inverse);
}

// One value of P t = t - mean(t) - normalized mean(normalized t): a projector, the derivative of standardize up to its factor.
template <class T>
GNFAST_HD double project(double t, double mean, T normalized, double slope) {
    return t - mean - double(normalized) * slope;
}

// out = beta out + value; what is multiplied by 0 is not read.
template <class T>
GNFAST_HD void assign(T& out, T beta, T value) {
    out = beta == T(0) ? value : beta * out + value;
}

}  // namespace norm
}  // namespace gnfast
