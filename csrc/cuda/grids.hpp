// Batches of batches of products, as few calls of cuBLAS as their strides allow.
#pragma once

#include "core/types.hpp"
#include "cuda/buffer.hpp"
#include "cuda/calls.hpp"
#include "cuda/kernels.hpp"
#include "cuda/runtime.hpp"

namespace gnfast::cuda::grids {

// The members along one of the two directions.
template <class T>
Batch<T> along_inner(const Grid<T>& g, index j) {
    return {g.at(j, 0), g.inner, g.inner_step};
}
template <class T>
Batch<T> along_outer(const Grid<T>& g, index i) {
    return {g.at(0, i), g.outer, g.outer_step};
}
// Whether all members lie in one row, the next j where the last i ends.
template <class T>
bool in_one_row(const Grid<T>& g) {
    return g.outer == 1 || g.outer_step == g.inner * g.inner_step;
}

// The transposes of the members of x (rows, inner each) below one another: (inner members, rows) for each j, or once where all j share
// them.
template <class T>
struct Stacked {
    Buffer<T> memory;
    Batch<const T> members;

    Stacked(const Grid<const T>& x, index outer)
        : memory((x.outer_step == 0 ? 1 : outer) * x.inner * x.first.rows * x.first.cols),
          members(View<const T>(memory.data(), x.inner * x.first.cols, x.first.rows), outer,
                  x.outer_step == 0 ? 0 : x.inner * x.first.rows * x.first.cols) {
        for (index j = 0; j < (x.outer_step == 0 ? 1 : outer); ++j)
            kernels::transpose(
                current_stream(), along_inner(x, j),
                Batch<T>(View<T>(memory.data() + j * members.step, x.first.cols, x.first.rows), x.inner, x.first.rows * x.first.cols));
    }
};

// out_j = alpha sum_i op(a_ji) op(b_ji) + beta out_j. Sums of a b^T, a convolution's gradient, are one product for each j whose inner
// length is that of all i together, once both are stacked: reading and writing each number once for 2 rows or 2 cols flops with it.
template <class T>
void sum(Op op_a, Op op_b, T alpha, const Grid<const T>& a, const Grid<const T>& b, T beta, const Grid<T>& out) {
    if (op_a == Op::none && op_b == Op::transpose) {
        const Stacked<T> left(a, out.outer), right(b, out.outer);
        return call::gemm(Op::transpose, Op::none, alpha, left.members, right.members, beta,
                          Batch<T>(out.first, out.outer, out.outer_step));
    }
    for (index i = 0; i < out.inner; ++i)
        call::gemm(op_a, op_b, alpha, along_outer(a, i), along_outer(b, i), i == 0 ? beta : T(1), along_outer(out, 0));
}

template <class T>
void multiply(Op op_a, Op op_b, T alpha, const Grid<const T>& a, const Grid<const T>& b, T beta, const Grid<T>& out) {
    if (out.inner_step == 0 && out.inner > 1) return sum(op_a, op_b, alpha, a, b, beta, out);
    const index members = out.outer * out.inner;
    if (in_one_row(a) && in_one_row(b) && in_one_row(out))
        return call::gemm(op_a, op_b, alpha, Batch<const T>(a.first, members, a.inner_step), Batch<const T>(b.first, members, b.inner_step),
                          beta, Batch<T>(out.first, members, out.inner_step));
    if (out.inner >= out.outer)
        for (index j = 0; j < out.outer; ++j)
            call::gemm(op_a, op_b, alpha, along_inner(a, j), along_inner(b, j), beta, along_inner(out, j));
    else
        for (index i = 0; i < out.inner; ++i)
            call::gemm(op_a, op_b, alpha, along_outer(a, i), along_outer(b, i), beta, along_outer(out, i));
}

}  // namespace gnfast::cuda::grids
