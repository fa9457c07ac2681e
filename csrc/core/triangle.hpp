// How the places of a triangle are counted: the pairs of outputs of a symmetric product, and the tiles below a diagonal.
#pragma once

#include "core/types.hpp"

namespace gnfast::triangle {

struct Pair {
    index a, b;
};

// The pairs 0 <= a <= b < r, one a after another.
GNFAST_HD inline index count(index r) { return r * (r + 1) / 2; }
GNFAST_HD inline index number(index a, index b, index r) { return a * r - a * (a - 1) / 2 + b - a; }
GNFAST_HD inline Pair pair(index number, index r) {
    index a = 0;
    for (; number >= r - a; ++a) number -= r - a;
    return {a, a + number};
}

}  // namespace gnfast::triangle
