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

// A dense layer, its place among the layers, and the place of the next dense one, or their number: in a chain, activations are between.
template <class T>
struct Link {
    const layers::Dense<T>* dense;
    std::size_t place, end;
};

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
        chain_ = chain_ && stands_in_chain(layer);
        std::visit([&](const auto& one) { one.tell(account_); }, layer);
        layers_.push_back(std::move(layer));
    }

    B& backend() const { return backend_; }
    const std::vector<Layer<T>>& layers() const { return layers_; }
    index parameters() const { return parameters_; }
    // Only dense layers and activations, one after another: what the Gram's tiles, the factored products and the linear dual are for.
    bool is_chain() const { return chain_; }
    // Whether an output depends on other samples than its own.
    bool couples_samples() const { return gnfast::couples_samples(layers_); }
    const Account& account() const { return account_; }

    std::vector<Link<T>> links() const {
        if (!chain_) throw std::invalid_argument("only networks of dense layers and activations, one after another, are chains");
        std::vector<Link<T>> found;
        for (std::size_t l = 0; l < layers_.size(); ++l)
            if (const layers::Dense<T>* dense = as_dense(layers_[l])) {
                if (!found.empty()) found.back().end = l;
                found.push_back({dense, l, layers_.size()});
            }
        return found;
    }
    index inputs() const { return inputs_; }
    index outputs() const { return account_.width; }

    // The widest thing that a sample's tangent passes through in a chain.
    index max_width() const {
        index width = 0;
        for (const Link<T>& link : links()) width = std::max(width, link.dense->outputs());
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
        const std::vector<Link<T>> links = network.links();
        double values = double(n) * double(network.inputs()) * double(links.empty() ? 0 : links.front().place);
        for (const Link<T>& link : links) values += double(n) * double(link.dense->outputs()) * double(link.end - link.place);
        return values * sizeof(T);
    }

   private:
    const Network<B, T>& network_;
    index samples_;
    layers::Store<B, T> store_;
    std::vector<layers::Kept<T>> kept_;
};

// Per dense layer l of a chain the rows B_l (n r, fan_out): row (i, c) is the gradient of (R_i^T f(x_i))_c, scaled, with respect to
// the layer's pre-activation. One pass backward, 2 n r sum(fan_in fan_out) flops.
template <class B, class T>
class BackwardRows {
   public:
    // `start` (n r, outputs) holds sqrt(scale) R_i^T and becomes the rows behind the last layer.
    BackwardRows(const ForwardPass<B, T>& pass, typename B::template buffer<T> start, index r) : r_(r) {
        B& backend = pass.network().backend();
        const index rows = pass.samples() * r;
        const std::vector<Link<T>> links = pass.network().links();
        View<T> at(start.data(), rows, pass.network().outputs());
        buffers_.push_back(std::move(start));
        rows_.resize(links.size());
        for (std::size_t q = links.size(); q-- > 0;) {
            // The rows of a dense layer above are complete; these are the ones just made.
            for (std::size_t l = links[q].end; --l > links[q].place;) backend.multiply_row_groups(at, pass.kept(l), r);
            rows_[q] = at;
            if (q == 0) break;
            const layers::Dense<T>& dense = *links[q].dense;
            buffers_.push_back(backend.template allocate<T>(rows * dense.inputs()));
            const View<T> below(buffers_.back().data(), rows, dense.inputs());
            backend.gemm(Op::none, Op::none, T(1), View<const T>(at), dense.weight, T(0), below);
            at = below;
        }
    }

    index per_sample() const { return r_; }
    View<const T> rows(std::size_t q) const { return rows_[q]; }

    static double bytes(const Network<B, T>& network, index n, index r) {
        double values = 0;
        for (const Link<T>& link : network.links()) values += double(n) * double(r) * double(link.dense->outputs());
        return values * sizeof(T);
    }

   private:
    index r_;
    std::vector<typename B::template buffer<T>> buffers_;
    std::vector<View<const T>> rows_;
};

}  // namespace gnfast
