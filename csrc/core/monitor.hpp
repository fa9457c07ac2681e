// How long work tells its caller where it stands; throwing from the callback stops it between two steps.
#pragma once

#include <exception>
#include <functional>
#include <limits>

namespace gnfast {

// The caller wants an end, and what has been found so far: a solver asked to keep its results catches this one.
struct interrupted : std::exception {
    const char* what() const noexcept override { return "interrupted"; }
};

constexpr double unknown_residual = std::numeric_limits<double>::quiet_NaN();

// (stage, done, total, residual): total 0 when it is not known in advance, residual NaN where there is none.
using Monitor = std::function<void(const char* stage, double done, double total, double residual)>;

inline void report(const Monitor& monitor, const char* stage, double done, double total, double residual = unknown_residual) {
    if (monitor) monitor(stage, done, total, residual);
}

}  // namespace gnfast
