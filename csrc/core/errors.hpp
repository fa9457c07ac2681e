// Errors that have no standard exception of their own; bind/ turns them into Python's.
#pragma once

#include <stdexcept>
#include <string>

namespace gnfast {

// An operation would need more memory than `memory_limit`; raised before anything is allocated.
struct memory_limit_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline std::string megabytes(double bytes) {
    const auto tenths = static_cast<long long>(bytes / 1e5 + 0.5);
    return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " MB";
}

}  // namespace gnfast
