// Rows of the Jacobian of a network of any layers, sqrt(scale) R^T J, by groups of samples that the memory limit has room for.
#pragma once

#include <algorithm>
#include <string>

#include "algo/blocking.hpp"

namespace gnfast {

// J: Layered, in the part's parameters.
template <class J>
class RowGroups {
    using T = typename J::Value;

   public:
    RowGroups(J& jacobian, bool reduced, Part part)
        : jacobian_(jacobian),
          at_(jacobian.at()),
          part_(part),
          r_(at_.rank(reduced)),
          whole_(r_ == at_.rank(true)),
          factor_(at_.factor(reduced)) {}

    index per_sample() const { return r_; }
    // The loss's rows sqrt(scale) R_i^T, (n r, outputs).
    View<const T> factor() const { return {factor_.data(), at_.samples() * r_, at_.outputs()}; }
    index parameters() const { return part_.last - part_.first; }
    // All rows (n r, p) if products keep them, else nothing.
    View<const T> stored() {
        const View<const T> all = whole_ ? jacobian_.stored_rows() : View<const T>();
        return all.data ? all.block(0, all.rows, part_.first, parameters()) : all;
    }

    // Samples of which `copies` groups of rows fit in what the memory limit leaves beside `matrix` bytes; all where rows are stored.
    index group(index copies, double matrix = 0) {
        const ProductPlan& plan = at_.plan();
        const double each = stored().data ? 0 : double(r_) * double(parameters()) * sizeof(T);
        const double left = at_.memory_limit() > 0
                                ? at_.memory_limit() - plan.bytes_forward - plan.bytes_rows - plan.bytes_workspace - matrix
                                : at_.backend().available_memory() / 4;
        if (double(copies) * each > left)
            throw memory_limit_error("the rows of the Jacobian of " + std::to_string(copies) + " samples need " +
                                     megabytes(double(copies) * each) + " but memory_limit leaves " + megabytes(std::max(left, 0.0)) +
                                     " beside the forward pass" + (matrix > 0 ? " and the matrix of " + megabytes(matrix) : "") +
                                     "; raise memory_limit");
        return each == 0 ? at_.samples() : std::min<index>(at_.samples(), index(left / (double(copies) * each)));
    }

    // The rows of some samples, in `room` unless they are stored.
    View<const T> rows(index first, index count, View<T> room) {
        if (const View<const T> all = stored(); all.data) return all.row_range(first * r_, count * r_);
        jacobian_.rows(factor(), r_, first, count, room.row_range(0, count * r_), part_);
        return room.row_range(0, count * r_);
    }

    // f(first sample, samples, rows) for all groups of at most `most` samples.
    template <class F>
    void for_groups(index most, F&& f) {
        const index n = at_.samples(), p = parameters();
        auto buffer = at_.backend().template allocate<T>(stored().data ? 0 : most * r_ * p);
        for (index i = 0; i < n; i += most) {
            const index count = std::min(most, n - i);
            f(i, count, rows(i, count, View<T>(buffer.data(), most * r_, p)));
        }
    }

    // f(i, j, rows of group i, rows of group j) for all pairs of groups, i >= j: n^2 / most groups of rows are made, beside `out`.
    template <class F>
    void for_pairs(View<T> out, F&& f) {
        const double matrix = double(out.rows) * double(out.cols) * sizeof(T);
        const index n = at_.samples(), p = parameters(), most = group(1, matrix) >= n ? n : group(2, matrix);
        auto buffer = at_.backend().template allocate<T>(most == n ? 0 : most * r_ * p);
        for_groups(most, [&](index i, index count, View<const T> mine) {
            f(i, count, mine, i, count, mine);
            for (index j = 0; j < i; j += most) f(i, count, mine, j, most, rows(j, most, View<T>(buffer.data(), most * r_, p)));
        });
    }

   private:
    J& jacobian_;
    typename J::At& at_;
    Part part_;
    index r_;
    bool whole_;
    typename J::Buffer factor_;
};

}  // namespace gnfast
