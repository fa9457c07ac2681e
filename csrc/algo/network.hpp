// A feed-forward network and its kept forward pass.
#pragma once

#include <stdexcept>
#include <utility>
#include <vector>

#include "algo/forward.hpp"
#include "algo/layers/layer.hpp"
#include "algo/walk.hpp"
#include "core/backend.hpp"

namespace gnfast {

template <class B, class T>
class Network {
    static_assert(all_answer<AnyLayer<T>, Forward<B, T>, Walk<B, T>>, "a layer leaves a question of LayerFor unanswered");

   public:
    using Buffer = typename B::template buffer<T>;

    // inputs: numbers of a sample.
    Network(B& backend, index inputs) : backend_(backend) { account_.width = inputs_ = inputs; }

    // A layer at the next place in the flat parameter vector. Weights stay where they are, unless a skip asks for W + beta I.
    layers::Dense<T> dense(View<const T> weight, const T* bias, T skip) {
        if (skip != T(0)) {
            Buffer own = backend_.template allocate<T>(weight.rows * weight.cols);
            const View<T> sum(own.data(), weight.rows, weight.cols);
            backend_.copy(weight, sum);
            backend_.add_diagonal(sum, skip);
            weight = sum;
            owned_.push_back(std::move(own));
        }
        return placed(layers::Dense<T>{weight, bias, 0});
    }
    template <class L>
    L placed(L layer) {
        layer.offset = parameters_;
        parameters_ += layer.parameters();
        return layer;
    }

    void add(Layer<T> layer) {
        chain_ = chain_ && (std::holds_alternative<layers::Dense<T>>(layer) || std::holds_alternative<layers::Activation>(layer));
        std::visit([&](const auto& one) { one.tell(account_); }, layer);
        layers_.push_back(std::move(layer));
    }

    B& backend() const { return backend_; }
    const std::vector<Layer<T>>& layers() const { return layers_; }
    index parameters() const { return parameters_; }
    // Only dense layers and activations, one after another: what the Gram's tiles, the factored products and the linear dual are for.
    bool is_feedforward_dense() const { return chain_; }
    // Whether an output depends on other samples than its own.
    bool couples_samples() const { return gnfast::couples_samples(layers_); }
    const Account& account() const { return account_; }

    std::vector<const layers::Dense<T>*> dense() const {
        std::vector<const layers::Dense<T>*> found;
        for (const Layer<T>& layer : layers_)
            if (const auto* d = std::get_if<layers::Dense<T>>(&layer)) found.push_back(d);
        return found;
    }
    index inputs() const { return inputs_; }
    index outputs() const { return account_.width; }

    // The widest thing that a sample's tangent passes through in a chain.
    index max_width() const {
        index width = 0;
        for (const auto* d : dense()) width = std::max(width, d->fan_out());
        return width;
    }

   private:
    B& backend_;
    index inputs_;
    std::vector<Layer<T>> layers_;
    std::vector<Buffer> owned_;
    index parameters_ = 0;
    bool chain_ = true;
    Account account_;
};

// What products need of the forward pass, made in blocks of samples.
template <class B, class T>
class ForwardPass {
   public:
    // sink(first sample, outputs (count, k) in double) as they are made.
    template <class Sink>
    ForwardPass(const Network<B, T>& network, View<const T> x, ForwardRoom room, Sink&& sink)
        : network_(network), samples_(x.rows), store_(network.backend()) {
        Forward<B, T>(network.backend(), &store_, x.rows, room).run(network.layers(), x, network.account(), kept_, sink);
    }

    const Network<B, T>& network() const { return network_; }
    index samples() const { return samples_; }
    // Of a chain, the input of layer l if it is dense, the derivative if it is an activation: (n, width).
    View<const T> kept(std::size_t l) const { return kept_[l].input.data ? kept_[l].input : kept_[l].derivative; }
    // What layers keep of some samples: layer l, or all.
    layers::Kept<T> kept(std::size_t l, index first, index count) const { return kept_[l].range(first, count); }
    std::vector<layers::Kept<T>> kept(index first, index count) const {
        std::vector<layers::Kept<T>> out;
        for (const layers::Kept<T>& one : kept_) out.push_back(one.range(first, count));
        return out;
    }

    // Bytes that the pass of n samples through a chain keeps.
    static double bytes(const Network<B, T>& network, index n) {
        double values = 0;
        index width = network.inputs();
        for (const Layer<T>& layer : network.layers()) {
            if (const auto* dense = std::get_if<layers::Dense<T>>(&layer)) width = dense->fan_out();
            values += double(n) * double(width);
        }
        return values * sizeof(T);
    }

   private:
    const Network<B, T>& network_;
    index samples_;
    layers::Store<B, T> store_;
    std::vector<layers::Kept<T>> kept_;
};

// Per dense layer l the rows B_l (n r, fan_out): row (i, c) is the gradient of (R_i^T f(x_i))_c, scaled, with respect to
// the layer's pre-activation. One pass backward, 2 n r sum(fan_in fan_out) flops.
template <class B, class T>
class BackwardRows {
   public:
    // `start` (n r, outputs) holds sqrt(scale) R_i^T and becomes the rows behind the last layer.
    BackwardRows(const ForwardPass<B, T>& pass, typename B::template buffer<T> start, index r) : r_(r) {
        const Network<B, T>& network = pass.network();
        B& backend = network.backend();
        const index n = pass.samples();
        View<T> at(start.data(), n * r, network.outputs());
        buffers_.push_back(std::move(start));
        const std::vector<Layer<T>>& all = network.layers();
        rows_.resize(all.size());
        std::size_t first_dense = 0;
        while (!std::holds_alternative<layers::Dense<T>>(all[first_dense])) ++first_dense;
        for (std::size_t l = all.size(); l-- > first_dense;) {
            if (const auto* dense = std::get_if<layers::Dense<T>>(&all[l])) {
                rows_[l] = at;
                if (l == first_dense) break;
                buffers_.push_back(backend.template allocate<T>(n * r * dense->fan_in()));
                const View<T> below(buffers_.back().data(), n * r, dense->fan_in());
                backend.gemm(Op::none, Op::none, T(1), View<const T>(at), dense->weight, T(0), below);
                at = below;
            } else {
                // The rows of a dense layer above are complete; these are the ones just made.
                backend.multiply_row_groups(at, pass.kept(l), r);
            }
        }
    }

    index per_sample() const { return r_; }
    View<const T> rows(std::size_t l) const { return rows_[l]; }

    static double bytes(const Network<B, T>& network, index n, index r) {
        double values = 0;
        for (const auto* dense : network.dense()) values += double(n) * double(r) * double(dense->fan_out());
        return values * sizeof(T);
    }

   private:
    index r_;
    std::vector<typename B::template buffer<T>> buffers_;
    std::vector<View<const T>> rows_;
};

}  // namespace gnfast
