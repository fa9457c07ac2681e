// The enumeration of Python for why a solver stopped: the CPU module's, of which there is one for all devices.
#pragma once

#include <pybind11/pybind11.h>

#include "algo/solvers/options.hpp"

namespace gnfast::bind {

inline pybind11::object python_ended(solvers::Ended ended) {
    return pybind11::module_::import("gnfast._core").attr("Ended")(static_cast<int>(ended));
}

}  // namespace gnfast::bind
