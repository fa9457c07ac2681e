// Which values a normalisation layer takes together, and which of them share a weight and a bias.
#pragma once

#include "core/types.hpp"

namespace gnfast {

struct NormShape {
    index width;     // values of a sample
    index channels;  // entries of weight and bias
    index inner;     // consecutive values of one channel: value q is of channel q / inner % channels
    index group;     // consecutive values of one sample that are normalised together; 0: those of a channel, of all samples

    index repeats() const { return width / (channels * inner); }
    index groups() const { return group ? width / group : channels; }  // of a sample, or of the batch
};

}  // namespace gnfast
