// Views of row-major matrices: what every verb takes and what every algorithm passes on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/host_device.hpp"

namespace gnfast {

using index = std::ptrdiff_t;

enum class Op { none, transpose };

// A row-major matrix that somebody else owns: element (i, j) is data[i * stride + j].
template <class T>
struct View {
    T* data = nullptr;
    index rows = 0;
    index cols = 0;
    index stride = 0;

    View() = default;
    GNFAST_HD View(T* data_, index rows_, index cols_, index stride_) : data(data_), rows(rows_), cols(cols_), stride(stride_) {}
    GNFAST_HD View(T* data_, index rows_, index cols_) : View(data_, rows_, cols_, cols_) {}

    // A mutable view is accepted wherever a read-only one is asked for.
    template <class U>
        requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
    GNFAST_HD View(const View<U>& other) : View(other.data, other.rows, other.cols, other.stride) {}

    GNFAST_HD T* row(index i) const { return data + i * stride; }
    GNFAST_HD View row_range(index first, index count) const { return {row(first), count, cols, stride}; }
    GNFAST_HD View block(index row0, index nrows, index col0, index ncols) const { return {row(row0) + col0, nrows, ncols, stride}; }
    GNFAST_HD bool contiguous() const { return stride == cols || rows <= 1; }
};

// Matrices of one shape, `step` elements apart; step 0 uses one matrix for all.
template <class T>
struct Batch {
    View<T> first;
    index count = 1;
    index step = 0;

    GNFAST_HD Batch(View<T> first_, index count_, index step_) : first(first_), count(count_), step(step_) {}

    template <class U>
        requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
    GNFAST_HD Batch(const Batch<U>& other) : first(other.first), count(other.count), step(other.step) {}

    GNFAST_HD View<T> operator[](index i) const { return {first.data + i * step, first.rows, first.cols, first.stride}; }
};

// Batches of batches: member (j, i) lies j * outer_step + i * inner_step elements behind the first. As an output, inner_step 0
// asks for the sum over i.
template <class T>
struct Grid {
    View<T> first;
    index outer = 1, outer_step = 0;
    index inner = 1, inner_step = 0;

    Grid(View<T> first_, index outer_, index outer_step_, index inner_, index inner_step_)
        : first(first_), outer(outer_), outer_step(outer_step_), inner(inner_), inner_step(inner_step_) {}

    template <class U>
        requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
    Grid(const Grid<U>& other) : Grid(other.first, other.outer, other.outer_step, other.inner, other.inner_step) {}

    View<T> at(index j, index i) const { return {first.data + j * outer_step + i * inner_step, first.rows, first.cols, first.stride}; }
};

GNFAST_HD constexpr index ceil_div(index a, index b) { return (a + b - 1) / b; }

}  // namespace gnfast
