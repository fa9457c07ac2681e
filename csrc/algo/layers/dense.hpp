// A dense layer z = W x + b: tangents, cotangents and the rows that the dual spaces need.
// Blocks of s vectors over n samples are (s, n, width), contiguous.
#pragma once

#include <algorithm>

#include "algo/in_double.hpp"
#include "algo/layers/account.hpp"
#include "algo/layers/kept.hpp"
#include "algo/layers/part.hpp"
#include "algo/workspace.hpp"
#include "core/types.hpp"

namespace gnfast::layers {

template <class T>
struct Dense {
    View<const T> weight;     // (fan_out, fan_in), with the skip's beta I already in it
    const T* bias = nullptr;  // (fan_out) or none
    index offset = 0;         // of the weight in the flat parameter vector; the bias follows it

    index inputs() const { return weight.cols; }
    index outputs() const { return weight.rows; }
    index parameters() const { return outputs() * (inputs() + (bias ? 1 : 0)); }

    static constexpr bool has_moments = true;
    bool couples_samples() const { return false; }
    bool touched(const Part& part) const { return part.holds(offset); }
    void tell(Account& seen) const {
        seen.product(double(inputs()) * double(outputs()));
        seen.kept += double(seen.width);
        seen.through(outputs());
    }

    // z = x W^T + b, by some rows of W at a time.
    template <class Pass>
    typename Pass::Value forward(Pass& pass, const typename Pass::Value& x, Kept<T>& kept) const {
        auto& backend = pass.backend();
        pass.keep(x, kept.input);
        const index rows = outputs(), panel = pass.weight_rows(rows, inputs());
        const auto out = pass.make(x.view.rows, rows);
        for (index row = 0; row < rows; row += panel) {
            const index count = std::min(panel, rows - row);
            const auto some = pass.in_double(weight.row_range(row, count));
            backend.gemm(Op::none, Op::transpose, 1.0, x.view, some.view(), 0.0, out.view.block(0, out.view.rows, row, count));
        }
        if (bias) {
            const auto b = pass.in_double(View<const T>(bias, 1, rows));
            backend.add_row(Batch<double>(out.view, 1, 0), Batch<const double>(b.view(), 1, 0));
        }
        return out;
    }
    // out_j = x dW_j^T + db_j, the direction dW_j being in row j of v; 2 n fan_in fan_out flops a vector.
    template <class B>
    void direction(Workspace<B, T>& work, const Kept<T>& kept, View<const T> v, Batch<T> out) const {
        work.backend.gemm_batch(Op::none, Op::transpose, T(1), Batch<const T>(kept.input, v.rows, 0), weights_of(v), T(0), out);
        if (bias) work.backend.add_row(out, bias_of(v));
    }

    // out = beta out + t W^T, the layer's input being moved by t: one product with s n rows.
    template <class B>
    void push(Workspace<B, T>& work, const Kept<T>&, Batch<const T> t, Batch<T> out, T beta) const {
        work.backend.gemm(Op::none, Op::transpose, T(1), flat(t), weight, beta, flat(out));
    }

    // t = g W
    template <class B>
    void pull(Workspace<B, T>& work, const Kept<T>&, Batch<const T> g, Batch<T> t) const {
        work.backend.gemm(Op::none, Op::none, T(1), flat(g), weight, T(0), flat(t));
    }

    // Row j of grad gets dW_j = beta dW_j + g_j^T x and db_j likewise; 2 n fan_in fan_out flops a vector.
    template <class B>
    void gradient(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, T beta, View<T> grad) const {
        const View<T> first(grad.data + offset, outputs(), inputs());
        work.backend.gemm_batch(Op::transpose, Op::none, T(1), g, Batch<const T>(kept.input, g.count, 0), beta,
                                Batch<T>(first, g.count, grad.stride));
        if (bias) {
            const View<T> tail(grad.data + offset + weight.rows * weight.cols, 1, outputs());
            work.backend.sum_rows(g, beta, Batch<T>(tail, g.count, grad.stride));
        }
    }

    // rows[c] (n, parameters of the network): row i holds g_ci^T x_i and g_ci.
    template <class B>
    void sample_gradients(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, Batch<T> rows) const {
        const index n = g.first.rows, step = rows.first.stride;
        T* const at = rows.first.data + offset;
        work.backend.gemm_grid(Op::none, Op::none, T(1),
                               Grid<const T>(View<const T>(g.first.data, outputs(), 1), g.count, g.step, n, outputs()),
                               Grid<const T>(View<const T>(kept.input.data, 1, inputs()), g.count, 0, n, kept.input.stride), T(0),
                               Grid<T>(View<T>(at, outputs(), inputs()), g.count, rows.step, n, step));
        for (index c = 0; bias && c < g.count; ++c)
            work.backend.copy(g[c], View<T>(at + outputs() * inputs() + c * rows.step, n, outputs(), step));
    }

    // The second moments of which K-FAC's factors are made, in double: their small eigenvalues are squares. out += x^T x, and below it,
    // where there is a bias, the sums of x;
    template <class B>
    void add_input_moment(Workspace<B, T>& work, const Kept<T>& kept, View<double> out) const {
        const InDouble<B, T> wide(work.backend, kept.input);
        work.backend.gemm(Op::transpose, Op::none, 1.0, wide.view(), wide.view(), 1.0, out.block(0, inputs(), 0, inputs()));
        if (bias)
            work.backend.sum_rows(Batch<const double>(wide.view(), 1, 0), 1.0, Batch<double>(out.block(inputs(), 1, 0, inputs()), 1, 0));
    }
    // and out += sum_j g_j^T g_j of cotangents behind the layer.
    template <class B>
    void add_output_moment(Workspace<B, T>& work, Batch<const T> g, View<double> out) const {
        const InDouble<B, T> wide(work.backend, flat(g));
        work.backend.gemm(Op::transpose, Op::none, 1.0, wide.view(), wide.view(), 1.0, out);
    }

   private:
    Batch<const T> weights_of(View<const T> v) const { return {View<const T>(v.data + offset, outputs(), inputs()), v.rows, v.stride}; }
    Batch<const T> bias_of(View<const T> v) const {
        return {View<const T>(v.data + offset + weight.rows * weight.cols, 1, outputs()), v.rows, v.stride};
    }
};

}  // namespace gnfast::layers
