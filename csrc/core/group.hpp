// Who works on one row together. A formula that runs over a row takes its numbers from `first` on in steps of `step` and asks the group
// for what all of them have found: one thread alone here, some lanes of a warp on a GPU (cuda/loops.cuh).
#pragma once

#include "core/host_device.hpp"
#include "core/types.hpp"

namespace gnfast {

struct Alone {
    static constexpr index first = 0, step = 1;

    template <class T>
    GNFAST_HD T sum(T value) const {
        return value;
    }
    template <class T>
    GNFAST_HD T most(T value) const {
        return value;
    }
    template <class T>
    GNFAST_HD T least(T value) const {
        return value;
    }
};

}  // namespace gnfast
