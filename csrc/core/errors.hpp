// Errors that have no standard exception of their own; bind/ turns them into Python's.
#pragma once

#include <stdexcept>
#include <string>

namespace gnfast {

// An operation would need more memory than `memory_limit`; raised before anything is allocated.
struct memory_limit_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A product of an operator holds NaN or infinity.
struct nonfinite_error : std::domain_error {
    using std::domain_error::domain_error;
};

// An operator has a negative eigenvalue, which the algorithm does not allow.
struct not_positive_definite_error : std::domain_error {
    using std::domain_error::domain_error;
};

// A search cannot go on from the state it was given.
struct saved_state_error : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

// A number of bytes for people, as plan.py has it.
inline std::string megabytes(double bytes) {
    double unit = 1e9;
    for (const char* name : {" GB", " MB", " kB"}) {
        if (bytes >= 0.9995 * unit) {
            const auto tenths = static_cast<long long>(10 * bytes / unit + 0.5);
            return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + name;
        }
        unit /= 1e3;
    }
    return std::to_string(static_cast<long long>(bytes + 0.5)) + " B";
}

}  // namespace gnfast
