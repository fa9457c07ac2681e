// What backends may keep for repeated products: on a GPU a plain copy, and nothing for the factored product, whose verbs do as well.
#pragma once

#include <span>
#include <stdexcept>

#include "core/backend.hpp"
#include "cuda/buffer.hpp"
#include "cuda/calls.hpp"
#include "cuda/kernels.hpp"
#include "cuda/runtime.hpp"

namespace gnfast::cuda {

template <class T>
class Packed {
   public:
    Packed() = default;
    explicit Packed(View<const T> b) : memory_(b.rows * b.cols), rows_(b.rows), cols_(b.cols) {
        kernels::copy(current_stream(), b, View<T>(memory_.data(), rows_, cols_));
    }
    View<const T> view() const { return {memory_.data(), rows_, cols_}; }

   private:
    Buffer<T> memory_;
    index rows_ = 0, cols_ = 0;
};

// out_j = sum_l P_l V_j B_l^T, V_j (k, length) and out_j (k, rows) in the rows of v and out, P_l in the rows of p (L k, k): for each l one
// product for all vectors, Z = V B_l^T, and one batch of small ones; 2 L k rows (length + k) flops a vector.
template <class T>
void kronecker_sum(View<const T> p, std::span<const Packed<T>> b, View<const T> v, View<T> out) {
    const index k = p.cols, s = v.rows, columns = out.cols / k;
    const Buffer<T> memory(s * k * columns);
    const View<T> z(memory.data(), s * k, columns);
    for (std::size_t l = 0; l < b.size(); ++l) {
        call::gemm(Op::none, Op::transpose, T(1), View<const T>(v.data, s * k, v.cols / k), b[l].view(), T(0), z);
        call::gemm(Op::none, Op::none, T(1), Batch<const T>(p.row_range(index(l) * k, k), s, 0),
                   Batch<const T>(View<const T>(memory.data(), k, columns), s, k * columns), l == 0 ? T(0) : T(1),
                   Batch<T>(View<T>(out.data, k, columns), s, out.stride));
    }
}

template <class T>
struct NotFactored {
    NotFactored() = default;
    NotFactored(std::span<const FactoredTerm<T>>, index) {}
    explicit operator bool() const { return false; }
    static double bytes(index, index, index, index) { return 0; }
    static double workspace_bytes(index, index, index) { return 0; }
    bool product(View<const T>, View<T>) { throw std::logic_error("a GPU has no packed product; the plan must not ask for one"); }
};

}  // namespace gnfast::cuda
