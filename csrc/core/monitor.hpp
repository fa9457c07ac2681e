// How long work tells its caller where it stands; throwing from the callback stops it between two steps.
#pragma once

#include <functional>

namespace gnfast {

// (stage, done, total): total 0 when it is not known in advance.
using Monitor = std::function<void(const char* stage, double done, double total)>;

inline void report(const Monitor& monitor, const char* stage, double done, double total) {
    if (monitor) monitor(stage, done, total);
}

}  // namespace gnfast
