// The dual of a linear network in the space of its linear map: M = sum_l P_l (x) R_l, (k r, k r), free of n and of
// every width once its 2 L small matrices are formed.
#pragma once

#include <vector>

#include "algo/kronecker_sum.hpp"
#include "algo/network.hpp"

namespace gnfast {

template <class B, class T>
class LinearDual {
   public:
    using Buffer = typename B::template buffer<T>;

    // range (r, d + affine): rows span the data, range^T range = scaled second moment of x, or of (x, 1) when `affine`.
    // With A_l = W_L ... W_{l+1} and Y_l the layer's inputs as a map of the range: P_l = A_l A_l^T, R_l = Y_l Y_l^T
    // (+ the ones column's outer product for a bias).
    LinearDual(const Network<B, T>& network, View<const T> range, bool affine)
        : network_(network),
          k_(network.outputs()),
          r_(range.rows),
          affine_(affine),
          sum_(network.backend(), index(network.links().size()), network.outputs(), range.rows) {
        const auto links = network.links();
        range_ = backend().template allocate<T>(range.rows * range.cols);
        backend().copy(range, range_view());
        for_inputs([&](index l, View<const T> y) {
            const View<T> small = sum_.r(l);
            backend().syrk(y, small);
            if (links[std::size_t(l)].dense->bias) {
                const View<const T> ones = ones_column();
                backend().gemm(Op::none, Op::transpose, T(1), ones, ones, T(1), small);
            }
        });
        for_outputs([&](index l, View<const T> a) { backend().syrk(a, sum_.p(l)); });
    }

    KroneckerSum<B, T>& sum() { return sum_; }
    const KroneckerSum<B, T>& sum() const { return sum_; }

    // Row j of out (s, p): dW_l = A_l^T V_j Y_l^T, an eigenvector of M taken to parameters (not normalised).
    void lift(View<const T> v, View<T> out) {
        for_layers([&](const layers::Dense<T>& layer, View<const T> a, View<const T> y, View<T> moved, View<T> column) {
            for (index j = 0; j < v.rows; ++j) {
                const View<const T> vj(v.row(j), k_, r_);
                T* at = out.row(j) + layer.offset;
                backend().gemm(Op::none, Op::none, T(1), vj, y, T(0), moved);
                backend().gemm(Op::transpose, Op::none, T(1), a, View<const T>(moved), T(0), View<T>(at, layer.outputs(), layer.inputs()));
                if (layer.bias) {
                    backend().gemm(Op::none, Op::none, T(1), vj, ones_column(), T(0), column);
                    backend().gemm(Op::transpose, Op::none, T(1), a, View<const T>(column), T(0),
                                   View<T>(at + layer.outputs() * layer.inputs(), layer.outputs(), 1));
                }
            }
        });
    }

    // Row j of out (s, k r) = sum_l A_l dW_l Y_l^T for the direction dW in row j of v (s, p): the adjoint of lift.
    void restrict_to_dual(View<const T> v, View<T> out) {
        backend().fill(out, T(0));
        for_layers([&](const layers::Dense<T>& layer, View<const T> a, View<const T> y, View<T> moved, View<T> column) {
            for (index j = 0; j < v.rows; ++j) {
                const View<T> vj(out.row(j), k_, r_);
                const T* at = v.row(j) + layer.offset;
                backend().gemm(Op::none, Op::none, T(1), a, View<const T>(at, layer.outputs(), layer.inputs()), T(0), moved);
                backend().gemm(Op::none, Op::transpose, T(1), View<const T>(moved), y, T(1), vj);
                if (layer.bias) {
                    const View<const T> bias(at + layer.outputs() * layer.inputs(), layer.outputs(), 1);
                    backend().gemm(Op::none, Op::none, T(1), a, bias, T(0), column);
                    backend().gemm(Op::none, Op::transpose, T(1), View<const T>(column), ones_column(), T(1), vj);
                }
            }
        });
    }

   private:
    B& backend() const { return network_.backend(); }
    View<T> range_view() const { return {range_.data(), r_, network_.inputs() + (affine_ ? 1 : 0)}; }
    View<const T> ones_column() const { return View<const T>(range_view()).block(0, r_, network_.inputs(), 1); }

    // f(layer l, A_l (k, fan_out), Y_l (r, fan_in), work space (k, fan_in), (k, 1)), l ascending.
    template <class F>
    void for_layers(F&& f) const {
        const auto links = network_.links();
        std::vector<Buffer> left(links.size());
        for_outputs([&](index l, View<const T> a) {
            left[std::size_t(l)] = backend().template allocate<T>(a.rows * a.cols);
            backend().copy(a, View<T>(left[std::size_t(l)].data(), a.rows, a.cols));
        });
        for_inputs([&](index l, View<const T> y) {
            const layers::Dense<T>& layer = *links[std::size_t(l)].dense;
            Buffer work = backend().template allocate<T>(k_ * (layer.inputs() + 1));
            f(layer, View<const T>(left[std::size_t(l)].data(), k_, layer.outputs()), y, View<T>(work.data(), k_, layer.inputs()),
              View<T>(work.data() + k_ * layer.inputs(), k_, 1));
        });
    }

    // f(l, Y_l (r, fan_in of l)), l ascending.
    template <class F>
    void for_inputs(F&& f) const {
        const auto links = network_.links();
        View<const T> y = View<const T>(range_view()).block(0, r_, 0, network_.inputs());
        Buffer buffers[2];
        for (std::size_t l = 0; l < links.size(); ++l) {
            f(index(l), y);
            if (l + 1 == links.size()) break;
            Buffer& target = buffers[l % 2];
            target = backend().template allocate<T>(r_ * links[l].dense->outputs());
            const View<T> next(target.data(), r_, links[l].dense->outputs());
            backend().gemm(Op::none, Op::transpose, T(1), y, links[l].dense->weight, T(0), next);
            if (links[l].dense->bias)
                backend().gemm(Op::none, Op::none, T(1), ones_column(), View<const T>(links[l].dense->bias, 1, links[l].dense->outputs()),
                               T(1), next);
            y = next;
        }
    }

    // f(l, A_l (k, fan_out of l)), l descending from A_L = I.
    template <class F>
    void for_outputs(F&& f) const {
        const auto links = network_.links();
        Buffer buffers[2];
        buffers[0] = backend().template allocate<T>(k_ * k_);
        View<T> a(buffers[0].data(), k_, k_);
        backend().fill(a, T(0));
        backend().add_diagonal(a, T(1));
        for (std::size_t l = links.size(); l-- > 0;) {
            f(index(l), View<const T>(a));
            if (l == 0) break;
            Buffer& target = buffers[(links.size() - l) % 2];
            target = backend().template allocate<T>(k_ * links[l].dense->inputs());
            const View<T> next(target.data(), k_, links[l].dense->inputs());
            backend().gemm(Op::none, Op::none, T(1), View<const T>(a), links[l].dense->weight, T(0), next);
            a = next;
        }
    }

    const Network<B, T>& network_;
    index k_, r_;
    bool affine_;
    KroneckerSum<B, T> sum_;
    Buffer range_;
};

}  // namespace gnfast
