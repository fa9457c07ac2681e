// A walk through layers of all kinds: tangents of blocks of vectors forward, cotangents backward. Blocks of s vectors over n samples are
// (s, n, width), contiguous.
#pragma once

#include <utility>
#include <vector>

#include "algo/layers/kept.hpp"
#include "algo/layers/layer.hpp"
#include "algo/workspace.hpp"

namespace gnfast {

template <class B, class T>
class Walk {
   public:
    using Layers = std::vector<Layer<T>>;
    using AllKept = std::vector<layers::Kept<T>>;
    using Lease = typename Workspace<B, T>::Lease;

    // What moves at some place of the network: nothing, what is lent, or what is its own and may be overwritten.
    struct Tangent {
        Batch<T> batch{View<T>(), 0, 0};
        Lease lease;

        bool moves() const { return batch.first.data != nullptr; }
        Tangent lend() const { return {batch, {}}; }
        View<T> flat() const { return {batch.first.data, batch.count * batch.first.rows, batch.first.cols}; }
    };

    explicit Walk(Workspace<B, T>& work, Part part = {}) : work_(work), part_(part) {}

    Tangent make(index s, index n, index width) {
        Lease lease = work_.acquire(s * n * width);
        const View<T> first(lease.data(), n, width);
        return {Batch<T>(first, s, n * width), std::move(lease)};
    }

    // The tangents behind the layers, when the part's parameters move by the rows of v (s, p) and what the layers take by t.
    Tangent push(const Layers& all, const AllKept& kept, View<const T> v, index n, Tangent t) {
        for (std::size_t l = 0; l < all.size(); ++l)
            if (t.moves() || touches(all[l], part_))
                t = std::visit([&](const auto& layer) { return push_one(layer, kept[l], v, n, std::move(t)); }, all[l]);
        return t;
    }

    // sink(layer, kept, g) is called at each layer with parameters of the part with the cotangents g behind it. Returns those before all
    // layers if they are `needed`: else the walk ends at the part's first parameters.
    template <class Sink>
    Tangent pull(const Layers& all, const AllKept& kept, Tangent g, bool needed, Sink&& sink) {
        std::size_t first = 0;
        while (!needed && first < all.size() && !touches(all[first], part_)) ++first;
        for (std::size_t l = all.size(); l-- > first;)
            g = std::visit([&](const auto& layer) { return pull_one(layer, kept[l], std::move(g), needed || l > first, sink); }, all[l]);
        return g;
    }

   private:
    B& backend() const { return work_.backend; }

    // ------------------------------------------------------------------------------------------ with parameters
    template <class L>
    Tangent push_parameters(const L& layer, index outputs, const layers::Kept<T>& kept, View<const T> v, index n, const Tangent& t) {
        Tangent out = make(v.rows, n, outputs);
        const bool own = layer.parameters() > 0 && part_.holds(layer.offset);
        if (own) part_.within(layer).direction(work_, kept, v, out.batch);
        if (t.moves()) layer.push(work_, kept, Batch<const T>(t.batch), out.batch, own ? T(1) : T(0));
        return out;
    }
    Tangent push_one(const layers::Dense<T>& layer, const layers::Kept<T>& kept, View<const T> v, index n, Tangent t) {
        return push_parameters(layer, layer.fan_out(), kept, v, n, t);
    }
    Tangent push_one(const layers::Convolution<T>& layer, const layers::Kept<T>& kept, View<const T> v, index n, Tangent t) {
        return push_parameters(layer, layer.outputs(), kept, v, n, t);
    }

    template <class L, class Sink>
    Tangent pull_parameters(const L& layer, index inputs, const layers::Kept<T>& kept, const Tangent& g, bool needed, Sink& sink) {
        if (part_.holds(layer.offset)) sink(part_.within(layer), kept, Batch<const T>(g.batch));
        if (!needed) return {};
        Tangent out = make(g.batch.count, g.batch.first.rows, inputs);
        layer.pull(work_, kept, Batch<const T>(g.batch), out.batch, T(0));
        return out;
    }
    template <class Sink>
    Tangent pull_one(const layers::Dense<T>& layer, const layers::Kept<T>& kept, Tangent g, bool needed, Sink& sink) {
        return pull_parameters(layer, layer.fan_in(), kept, g, needed, sink);
    }
    template <class Sink>
    Tangent pull_one(const layers::Convolution<T>& layer, const layers::Kept<T>& kept, Tangent g, bool needed, Sink& sink) {
        return pull_parameters(layer, layer.inputs(), kept, g, needed, sink);
    }

    // ------------------------------------------------------------------------------------------ normalisation
    Tangent push_one(const layers::Norm<T>& layer, const layers::Kept<T>& kept, View<const T> v, index n, Tangent t) {
        return push_parameters(layer, layer.shape.width, kept, v, n, t);
    }
    template <class Sink>
    Tangent pull_one(const layers::Norm<T>& layer, const layers::Kept<T>& kept, Tangent g, bool needed, Sink& sink) {
        return pull_parameters(layer, layer.shape.width, kept, g, needed, sink);
    }

    // ------------------------------------------------------------------------------------------ pooling
    Tangent push_one(const layers::Pool<T>& layer, const layers::Kept<T>& kept, View<const T>, index n, Tangent t) {
        Tangent out = make(t.batch.count, n, layer.outputs());
        layer.push(work_, kept, Batch<const T>(t.batch), out.batch, T(0));
        return out;
    }
    template <class Sink>
    Tangent pull_one(const layers::Pool<T>& layer, const layers::Kept<T>& kept, Tangent g, bool, Sink&) {
        Tangent out = make(g.batch.count, g.batch.first.rows, layer.inputs());
        layer.pull(work_, kept, Batch<const T>(g.batch), out.batch, T(0));
        return out;
    }

    // ------------------------------------------------------------------------------------------ elementwise, in place
    Tangent owned(Tangent t) {
        if (t.lease) return t;
        Tangent out = make(t.batch.count, t.batch.first.rows, t.batch.first.cols);
        backend().copy(View<const T>(t.flat()), out.flat());
        return out;
    }

    Tangent scaled(const layers::Kept<T>& kept, Tangent t) {
        t = owned(std::move(t));
        backend().multiply_rows(t.batch, kept.derivative);
        return t;
    }
    Tangent push_one(const layers::Activation&, const layers::Kept<T>& kept, View<const T>, index, Tangent t) {
        return scaled(kept, std::move(t));
    }
    template <class Sink>
    Tangent pull_one(const layers::Activation&, const layers::Kept<T>& kept, Tangent g, bool, Sink&) {
        return scaled(kept, std::move(g));
    }

    Tangent scaled(double factor, Tangent t) {
        if (factor == 1) return t;
        t = owned(std::move(t));
        backend().scale_add(T(0), View<const T>(t.flat()), T(factor), t.flat());
        return t;
    }
    Tangent push_one(const layers::Scale& layer, const layers::Kept<T>&, View<const T>, index, Tangent t) {
        return scaled(layer.factor, std::move(t));
    }
    template <class Sink>
    Tangent pull_one(const layers::Scale& layer, const layers::Kept<T>&, Tangent g, bool, Sink&) {
        return scaled(layer.factor, std::move(g));
    }

    // ------------------------------------------------------------------------------------------ residual blocks
    // a + scale b, where either may not move.
    Tangent sum(Tangent a, double scale, Tangent b) {
        if (!b.moves()) return a;
        if (!a.moves()) return scaled(scale, std::move(b));
        if (!a.lease && b.lease) {
            backend().scale_add(T(1), View<const T>(a.flat()), T(scale), b.flat());
            return b;
        }
        a = owned(std::move(a));
        backend().scale_add(T(scale), View<const T>(b.flat()), T(1), a.flat());
        return a;
    }
    // The shortcut may overwrite what the body was lent.
    Tangent apart(Tangent t) { return t.moves() ? owned(std::move(t)) : Tangent{}; }
    Tangent push_one(const layers::Residual<T>& block, const layers::Kept<T>& kept, View<const T> v, index n, Tangent t) {
        Tangent body = apart(push(block.body, kept.body, v, n, t.lend()));
        return sum(push(block.shortcut, kept.shortcut, v, n, std::move(t)), block.scale, std::move(body));
    }
    template <class Sink>
    Tangent pull_one(const layers::Residual<T>& block, const layers::Kept<T>& kept, Tangent g, bool needed, Sink& sink) {
        Tangent body = apart(pull(block.body, kept.body, scaled(block.scale, g.lend()), needed, sink));
        Tangent shortcut = pull(block.shortcut, kept.shortcut, std::move(g), needed, sink);
        return needed ? sum(std::move(shortcut), 1, std::move(body)) : Tangent{};
    }

    Workspace<B, T>& work_;
    Part part_;
};

}  // namespace gnfast
