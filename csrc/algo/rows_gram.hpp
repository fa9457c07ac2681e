// The Gram dual K = (scale) R^T J J^T R of a network of any layers, from rows of the Jacobian: all of them where they are
// stored, else some samples' at a time; products by J^T and J.
#pragma once

#include <algorithm>
#include <vector>

#include "algo/gauss_newton.hpp"
#include "core/monitor.hpp"

namespace gnfast {

template <class B, class T>
class Gram<Layered<B, T>> {
   public:
    Gram(GaussNewton<Layered<B, T>>& owner, bool reduced, Part part)
        : owner_(owner), part_(part), groups_(owner.jacobian(), reduced, part), r_(groups_.per_sample()) {}

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
    B& backend() const { return owner_.backend(); }

    static constexpr index band_rows = 512;

    GaussNewton<Layered<B, T>>& owner_;
    Part part_;
    RowGroups<Layered<B, T>> groups_;
    index r_;
};

}  // namespace gnfast
