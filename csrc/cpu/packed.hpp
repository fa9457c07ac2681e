// A matrix packed for many products with few rows, such as a solver's blocks of vectors: BLAS would pack it anew for each.
#pragma once

#include <algorithm>
#include <span>

#include "cpu/buffer.hpp"
#include "cpu/calls.hpp"
#include "cpu/panels.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu {

template <class T>
class Packed {
   public:
    Packed() = default;
    explicit Packed(View<const T> b) : rows_(b.rows), length_(b.cols) {
        const index w = panels::width<T>();
        if (w == 0) {  // no kernels for this processor: a copy
            data_ = Buffer<T>(b.rows * b.cols);
            for (index i = 0; i < b.rows; ++i) std::copy_n(b.row(i), b.cols, data_.data() + i * b.cols);
            return;
        }
        data_ = Buffer<T>(ceil_div(b.rows, w) * w * b.cols);
        parallel_ranges(ceil_div(b.rows, w), 4,
                        [&](index first, index count) { panels::pack_matrix(b, first, first + count, data_.data()); });
    }

    // Rows of b that may be dealt out to threads together.
    static index grain() { return std::max<index>(32, panels::width<T>()); }
    // Numbers of scratch that a thread needs.
    static index scratch() { return panels::block_rows<T> * (panels::left_stride + panels::width<T>()); }

    // The columns from `first` to before `last` of out = a b^T on the calling thread, both multiples of `grain` or the end of b. Reads b
    // once for up to block_rows rows of a; 2 s rows length flops for s of them.
    void multiply(View<const T> a, index first, index last, View<T> out, T* work) const {
        const index w = panels::width<T>();
        if (w == 0)
            call::gemm(Op::none, Op::transpose, T(1), a, View<const T>(data_.data() + first * length_, last - first, length_), T(0),
                       out.block(0, out.rows, first, last - first));
        else
            panels::multiply_packed(a, data_.data(), first / w, ceil_div(last, w), out, work);
    }

   private:
    index rows_ = 0, length_ = 0;
    Buffer<T> data_;
};

// out_j = sum_l P_l V_j B_l^T, V_j (k, length) and out_j (k, rows) in the rows of v and out, P_l in the rows of p (L k, k). Each thread has
// its columns of out and meets the others once: the products are short, and waking a thread takes as long as a tenth of one.
template <class T>
void kronecker_sum(View<const T> p, std::span<const Packed<T>> b, View<const T> v, View<T> out) {
    const index k = p.cols, s = v.rows, columns = out.cols / k, grain = Packed<T>::grain();
    parallel_ranges(ceil_div(columns, grain), 1, [&](index begin, index count) {
        const index first = begin * grain, last = std::min(columns, first + count * grain);
        const Buffer<T> memory(Packed<T>::scratch() + s * k * columns);
        const View<T> z(memory.data() + Packed<T>::scratch(), s * k, columns);
        for (std::size_t l = 0; l < b.size(); ++l) {
            b[l].multiply(View<const T>(v.data, s * k, v.cols / k), first, last, z, memory.data());
            for (index j = 0; j < s; ++j)
                call::gemm(Op::none, Op::none, T(1), p.row_range(index(l) * k, k), View<const T>(z).block(j * k, k, first, last - first),
                           l == 0 ? T(0) : T(1), View<T>(out.row(j), k, columns).block(0, k, first, last - first));
        }
    });
}

}  // namespace gnfast::cpu
