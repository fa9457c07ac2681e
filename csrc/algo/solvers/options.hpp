// What a caller asks of an eigensolver and what it answers.
#pragma once

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/errors.hpp"
#include "core/monitor.hpp"
#include "core/types.hpp"

namespace gnfast::solvers {

// What an approximate inverse of A that multiplies by A itself shares with the solver that applies it: the counts of products, how
// far they may go, and what is told on the way.
struct Inner {
    index* products = nullptr;
    index* passes = nullptr;
    index limit = 0;  // of products; 0 for none
    Monitor monitor;
};

// out = A v, a block of vectors, one a row. Products may be made in less precision than T: `resolution` is its rounding, which
// nothing that is said of A goes beyond, while what is done with the vectors has T's own.
template <class T>
struct Apply : std::function<void(View<const T>, View<T>)> {
    using std::function<void(View<const T>, View<T>)>::function;
    double resolution = std::numeric_limits<T>::epsilon();
    Inner* inner = nullptr;  // of an approximate inverse by products
};

constexpr const char* nonfinite_product = "a product with the operator gave NaN or infinite values; check its entries";

// Why a solver stopped.
enum class Ended { tolerance, whole_space, rounding, products, iterations, stalled, no_direction, interrupted, one_pass };

inline const char* reason(Ended ended) {
    switch (ended) {
        case Ended::tolerance:
            return "tolerance met";
        case Ended::whole_space:
            return "the basis spans the whole space";
        case Ended::rounding:
            return "residuals at the level of rounding";
        case Ended::products:
            return "max_products reached";
        case Ended::iterations:
            return "max_iterations reached";
        case Ended::stalled:
            return "the residual stopped falling";
        case Ended::no_direction:
            return "rounding errors leave no direction to go on";
        case Ended::interrupted:
            return "interrupted";
        case Ended::one_pass:
            return "one pass: the residuals are not known";
    }
    return "";  // for compilers that do not see that all are there
}

// One named matrix of a solver's state: in the operator's precision, or in double.
struct Part {
    std::string name;
    const void* data = nullptr;
    index rows = 0, cols = 0;
    bool is_double = false;
};
using Snapshot = std::vector<Part>;

struct Options {
    index count = 1;         // eigenpairs wanted
    bool largest = true;     // the upper end of the spectrum, or the lower
    bool both = false;       // both ends: count / 2 from the lower, the rest from the upper
    index block = 1;         // vectors a product
    index max_basis = 0;     // vectors kept before a restart
    index max_products = 0;  // vectors multiplied before giving up
    index min_steps = 0;     // block steps that are made in any case; of Lanczos, before a restart: Result::steps
    double tol = 0;          // relative accuracy of the eigenvalues
    // Of a search for an eigenvalue beyond a bar, `count` of them: one for the end, or both: ends once there is one, or none.
    std::vector<double> bars;
    double norm = 0;  // an estimate of |A| if one is known; sets the floor of rounding errors
    std::uint64_t seed = 0;
    Monitor monitor;
    const char* stage = "eigenvalues";
    const void* start = nullptr;                      // (start_rows, size) vectors to start from, in the operator's precision
    index start_rows = 0;                             // the rest of the first block is random
    bool keep_results = false;                        // `interrupted` ends the search with what is known, instead of leaving it
    std::function<void(const Snapshot&, bool)> save;  // called before each product; true: nothing more will come
    Snapshot restore;                                 // what `save` was given; empty for a new search
};

struct Result {
    std::vector<double> values;     // from the end that was asked for, inwards; both: from the ends by turns
    std::vector<double> residuals;  // |A y - value y|, y of norm one: an eigenvalue lies that near to each value
    std::vector<double> others;     // the other Ritz values of the last basis
    index products = 0;             // vectors multiplied
    index passes = 0;               // products of a block
    index steps = 0;                // block steps from a random start before a restart: they span a whole Krylov space
    double norm = 0;                // the largest |Ritz value|: |A| is at least that
    bool converged = false;
    Ended ended = Ended::products;
};

}  // namespace gnfast::solvers
