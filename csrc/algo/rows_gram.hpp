// The Gram dual K = (scale) R^T J J^T R of a network of any layers, from rows of the Jacobian: all of them where they are
// stored, else some samples' at a time; products by J^T and J.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "algo/gauss_newton.hpp"
#include "core/monitor.hpp"

namespace gnfast {

// Rows sqrt(scale) R^T J of groups of samples, within the memory limit; J is that in the part's parameters.
template <class B, class T>
class RowGroups {
   public:
    RowGroups(GaussNewton<B, T>& owner, bool reduced, Part part)
        : owner_(owner), part_(part), r_(owner.rank(reduced)), whole_(r_ == owner.rank(true)), factor_(owner.factor(reduced)) {}

    index per_sample() const { return r_; }
    // The loss's rows sqrt(scale) R_i^T, (n r, outputs).
    View<const T> factor() const { return {factor_.data(), owner_.samples() * r_, owner_.outputs()}; }
    index parameters() const { return part_.last - part_.first; }
    // All rows (n r, p) if products keep them, else nothing.
    View<const T> stored() {
        const View<const T> all = whole_ ? owner_.stored_rows() : View<const T>();
        return all.data ? all.block(0, all.rows, part_.first, parameters()) : all;
    }

    // Samples of which `copies` groups of rows fit in what the memory limit leaves beside `matrix` bytes; all where rows are stored.
    index group(index copies, double matrix = 0) {
        const ProductPlan& plan = owner_.plan();
        const double each = stored().data ? 0 : double(r_) * double(parameters()) * sizeof(T);
        const double left = owner_.memory_limit() > 0
                                ? owner_.memory_limit() - plan.bytes_forward - plan.bytes_rows - plan.bytes_workspace - matrix
                                : owner_.network().backend().available_memory() / 4;
        if (double(copies) * each > left)
            throw memory_limit_error("the rows of the Jacobian of " + std::to_string(copies) + " samples need " +
                                     megabytes(double(copies) * each) + " but memory_limit leaves " + megabytes(std::max(left, 0.0)) +
                                     " beside the forward pass" + (matrix > 0 ? " and the matrix of " + megabytes(matrix) : "") +
                                     "; raise memory_limit");
        return each == 0 ? owner_.samples() : std::min<index>(owner_.samples(), index(left / (double(copies) * each)));
    }

    // The rows of some samples, in `room` unless they are stored.
    View<const T> rows(index first, index count, View<T> room) {
        if (const View<const T> all = stored(); all.data) return all.row_range(first * r_, count * r_);
        owner_.jacobian_rows(factor(), r_, first, count, room.row_range(0, count * r_), part_);
        return room.row_range(0, count * r_);
    }

    // f(first sample, samples, rows) for all groups of at most `most` samples.
    template <class F>
    void for_groups(index most, F&& f) {
        const index n = owner_.samples(), p = parameters();
        auto buffer = owner_.network().backend().template allocate<T>(stored().data ? 0 : most * r_ * p);
        for (index i = 0; i < n; i += most) {
            const index count = std::min(most, n - i);
            f(i, count, rows(i, count, View<T>(buffer.data(), most * r_, p)));
        }
    }

    // f(i, j, rows of group i, rows of group j) for all pairs of groups, i >= j: n^2 / most groups of rows are made, beside `out`.
    template <class F>
    void for_pairs(View<T> out, F&& f) {
        const double matrix = double(out.rows) * double(out.cols) * sizeof(T);
        const index n = owner_.samples(), p = parameters(), most = group(1, matrix) >= n ? n : group(2, matrix);
        auto buffer = owner_.network().backend().template allocate<T>(most == n ? 0 : most * r_ * p);
        for_groups(most, [&](index i, index count, View<const T> mine) {
            f(i, count, mine, i, count, mine);
            for (index j = 0; j < i; j += most) f(i, count, mine, j, most, rows(j, most, View<T>(buffer.data(), most * r_, p)));
        });
    }

   private:
    GaussNewton<B, T>& owner_;
    Part part_;
    index r_;
    bool whole_;
    typename B::template buffer<T> factor_;
};

template <class B, class T>
class RowsGram {
   public:
    RowsGram(GaussNewton<B, T>& owner, bool reduced, Part part)
        : owner_(owner), part_(part), groups_(owner, reduced, part), r_(groups_.per_sample()) {}

    index size() const { return owner_.samples() * r_; }

    // The lower triangle of out (n r, n r).
    void form(View<T> out, const Monitor& monitor) {
        const double all = double(owner_.samples()) * double(owner_.samples());
        double done = 0;
        groups_.for_pairs(out, [&](index i, index ni, View<const T> a, index j, index nj, View<const T> b) {
            // Within a group by bands of samples, which leaves out most of what lies above the diagonal.
            const index band = std::max<index>(1, band_rows / r_);
            for (index at = 0; at < ni; at += band) {
                const index count = std::min(band, ni - at), columns = i == j ? at + count : nj;
                backend().gemm(Op::none, Op::transpose, T(1), a.row_range(at * r_, count * r_), b.row_range(0, columns * r_), T(0),
                               out.block((i + at) * r_, count * r_, j * r_, columns * r_));
                done += double(count) * double(columns) * (i == j ? 1 : 2);
                report(monitor, "forming the Gram matrix", std::min(done, all), all);
            }
        });
    }

    // out = K v for each row of v (s, n r).
    void apply(View<const T> v, View<T> out) {
        if (const View<const T> rows = groups_.stored(); rows.data) {
            auto buffer = backend().template allocate<T>(v.rows * rows.cols);
            const View<T> w(buffer.data(), v.rows, rows.cols);
            backend().gemm(Op::none, Op::none, T(1), v, rows, T(0), w);
            return backend().gemm(Op::none, Op::transpose, T(1), View<const T>(w), rows, T(0), out);
        }
        const index p = groups_.parameters(), most = std::min(v.rows, owner_.plan().vector_block);
        auto buffer = backend().template allocate<T>(most * p);
        for (index j = 0; j < v.rows; j += most) {
            const index s = std::min(most, v.rows - j);
            const View<T> w(buffer.data(), s, p);
            lift(v.row_range(j, s), w);
            restrict_to_dual(View<const T>(w), out.row_range(j, s));
        }
    }

    // out = J^T R v for each row: an eigenvector of K taken to parameters (not normalised).
    void lift(View<const T> v, View<T> out) {
        if (const View<const T> rows = groups_.stored(); rows.data) return backend().gemm(Op::none, Op::none, T(1), v, rows, T(0), out);
        const index n = owner_.samples(), k = owner_.outputs();
        auto buffer = backend().template allocate<T>(v.rows * n * k);
        const Batch<T> u(View<T>(buffer.data(), n, k), v.rows, n * k);
        backend().contract_in(groups_.factor(), r_, Batch<const T>(View<const T>(v.data, n, r_), v.rows, v.stride), u);
        owner_.vjp(View<const T>(buffer.data(), v.rows, n * k), out, part_);
    }

    // out = R^T J v for each row v (s, p): the adjoint of lift.
    void restrict_to_dual(View<const T> v, View<T> out) {
        if (const View<const T> rows = groups_.stored(); rows.data)
            return backend().gemm(Op::none, Op::transpose, T(1), v, rows, T(0), out);
        const index n = owner_.samples(), k = owner_.outputs();
        auto buffer = backend().template allocate<T>(v.rows * n * k);
        owner_.jvp(v, View<T>(buffer.data(), v.rows, n * k), part_);
        backend().fill(out, T(0));
        backend().contract_out(groups_.factor(), r_, Batch<const T>(View<const T>(buffer.data(), n, k), v.rows, n * k),
                               Batch<T>(View<T>(out.data, n, r_), v.rows, out.stride));
    }

    // out (n, n) = (1/r) sum_c K[(i,c),(j,c)], lower triangle.
    void mean_over_outputs(View<T> out) {
        groups_.for_pairs(out, [&](index i, index ni, View<const T> a, index j, index nj, View<const T> b) {
            for (index c = 0; c < r_; ++c) {
                const View<const T> x(a.row(c), ni, a.cols, r_ * a.stride), y(b.row(c), nj, b.cols, r_ * b.stride);
                backend().gemm(Op::none, Op::transpose, T(1) / T(r_), x, y, c == 0 ? T(0) : T(1), out.block(i, ni, j, nj));
            }
        });
    }

    // diag K: the squared norms of the rows, summed in double.
    std::vector<double> diagonal() {
        std::vector<double> out, some;
        groups_.for_groups(groups_.group(1), [&](index, index, View<const T> rows) {
            backend().row_dots(rows, rows, some);
            out.insert(out.end(), some.begin(), some.end());
        });
        return out;
    }

   private:
    B& backend() const { return owner_.network().backend(); }

    static constexpr index band_rows = 512;

    GaussNewton<B, T>& owner_;
    Part part_;
    RowGroups<B, T> groups_;
    index r_;
};

// out (1, p): diag G, the squared norms of the columns of R^T J.
template <class B, class T>
void general_diagonal(GaussNewton<B, T>& owner, View<T> out) {
    B& backend = owner.network().backend();
    RowGroups<B, T> groups(owner, true, {0, owner.network().parameters()});
    const index p = out.cols;
    auto buffer = backend.template allocate<T>(groups.per_sample() * p);
    const View<T> squares(buffer.data(), groups.per_sample(), p);
    bool first = true;
    groups.for_groups(groups.group(1), [&](index, index count, View<const T> rows) {
        for (index i = 0; i < count; ++i) {
            const View<const T> one = rows.row_range(i * squares.rows, squares.rows);
            backend.fill(squares, T(0));
            backend.add_product(one, one, squares);
            backend.sum_rows(Batch<const T>(View<const T>(squares), 1, 0), first ? T(0) : T(1), Batch<T>(out, 1, 0));
            first = false;
        }
    });
}

}  // namespace gnfast
