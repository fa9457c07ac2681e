// Matrices for the tests: random entries, rows further apart than they are long, NaN in every gap.
#pragma once

#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/types.hpp"

namespace gnfast::test {

template <class T>
struct Matrix {
    index rows, cols, stride;
    std::vector<T> values;

    Matrix(index rows_, index cols_, index padding = 3)
        : rows(rows_),
          cols(cols_),
          stride(cols_ + padding),
          values(static_cast<std::size_t>(rows_ * stride), std::numeric_limits<T>::quiet_NaN()) {}

    T& operator()(index i, index j) { return values[static_cast<std::size_t>(i * stride + j)]; }
    T operator()(index i, index j) const { return values[static_cast<std::size_t>(i * stride + j)]; }
    View<T> view() { return {values.data(), rows, cols, stride}; }
    View<const T> read() const { return {values.data(), rows, cols, stride}; }

    // What lies between the rows is still NaN: nothing was written there.
    bool gaps_untouched() const {
        for (index i = 0; i < rows; ++i)
            for (index j = cols; j < stride; ++j)
                if (!std::isnan((*this)(i, j))) return false;
        return true;
    }
};

template <class T>
Matrix<T> random(index rows, index cols, unsigned seed, index padding = 3) {
    Matrix<T> out(rows, cols, padding);
    std::mt19937 engine(seed);
    std::normal_distribution<double> normal;
    for (index i = 0; i < rows; ++i)
        for (index j = 0; j < cols; ++j) out(i, j) = static_cast<T>(normal(engine));
    return out;
}

// A tolerance for sums of `terms` products of numbers of order one.
template <class T>
double rounding(index terms) {
    return 8 * double(std::numeric_limits<T>::epsilon()) * (4 + double(terms));
}

}  // namespace gnfast::test
