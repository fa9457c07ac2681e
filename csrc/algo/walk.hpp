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
    using Work = Workspace<B, T>;
    using Value = T;
    using Layers = std::vector<Layer<T>>;
    using Kept = layers::Kept<T>;
    using AllKept = std::vector<Kept>;
    using Vectors = View<const T>;
    using Cotangents = Batch<const T>;
    struct AnySink {};  // in the place of what is told of cotangents
    using Lease = typename Workspace<B, T>::Lease;

    // What moves at some place of the network: nothing, what is lent, or what is its own and may be overwritten.
    struct Tangent {
        Batch<T> batch{View<T>(), 0, 0};
        Lease lease;

        bool moves() const { return batch.first.data != nullptr; }
        Tangent lend() const { return {batch, {}}; }
        View<T> flat() const { return layers::flat(batch); }
    };

    explicit Walk(Workspace<B, T>& work, Part part = {}) : work_(work), part_(part) {}

    Tangent make(index s, index n, index width) {
        Lease lease = work_.acquire(s * n * width);
        const View<T> first(lease.data(), n, width);
        return {Batch<T>(first, s, n * width), std::move(lease)};
    }

    // The tangents behind the layers, when the part's parameters move by the rows of v (s, p) and what the layers take by t.
    Tangent push(const Layers& all, const AllKept& kept, Vectors v, index n, Tangent t) {
        for (std::size_t l = 0; l < all.size(); ++l)
            t = std::visit([&](const auto& layer) { return through(layer, kept[l], v, n, std::move(t)); }, all[l]);
        return t;
    }

    // sink(layer, kept, g) is called at each layer with parameters of the part with the cotangents g behind it. Returns those before all
    // layers if they are `needed`: else the walk ends at the part's first parameters.
    template <class Sink>
    Tangent pull(const Layers& all, const AllKept& kept, Tangent g, bool needed, Sink&& sink) {
        std::size_t first = 0;
        while (!needed && first < all.size() && !touched(all[first], part_)) ++first;
        for (std::size_t l = all.size(); l-- > first;)
            g = std::visit([&](const auto& layer) { return back(layer, kept[l], std::move(g), needed || l > first, sink); }, all[l]);
        return g;
    }

    // ------------------------------------------------------------------------------------------ what layers make their answers with
    B& backend() const { return work_.backend; }

    Tangent owned(Tangent t) {
        if (t.lease) return t;
        Tangent out = make(t.batch.count, t.batch.first.rows, t.batch.first.cols);
        backend().copy(View<const T>(t.flat()), out.flat());
        return out;
    }
    // In place, by the same (n, width) for all vectors, or by one factor.
    Tangent multiplied(View<const T> by, Tangent t) {
        t = owned(std::move(t));
        backend().multiply_rows(t.batch, by);
        return t;
    }
    Tangent scaled(double factor, Tangent t) {
        if (factor == 1) return t;
        t = owned(std::move(t));
        backend().scale_add(T(0), View<const T>(t.flat()), T(factor), t.flat());
        return t;
    }
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

   private:
    template <class L>
    Tangent through(const L& layer, const Kept& kept, Vectors v, index n, Tangent t) {
        const bool moves = t.moves(), own = layer.touched(part_);
        if (!moves && !own) return {};
        if constexpr (LayerMap<L, Workspace<B, T>, T>) {
            Tangent out = make(v.rows, n, layer.outputs());
            if constexpr (has_parameters<L>)
                if (own) part_.within(layer).direction(work_, kept, v, out.batch);
            if (moves) layer.push(work_, kept, Cotangents(t.batch), out.batch, own ? T(1) : T(0));
            return out;
        } else {
            return layer.jvp(*this, kept, v, n, std::move(t));
        }
    }
    template <class L, class Sink>
    Tangent back(const L& layer, const Kept& kept, Tangent g, bool needed, Sink& sink) {
        if constexpr (LayerMap<L, Workspace<B, T>, T>) {
            if constexpr (has_parameters<L>)
                if (layer.touched(part_)) sink(part_.within(layer), kept, Cotangents(g.batch));
            if (!needed) return {};
            Tangent out = make(g.batch.count, g.batch.first.rows, layer.inputs());
            layer.pull(work_, kept, Cotangents(g.batch), out.batch);
            return out;
        } else {
            return layer.vjp(*this, kept, std::move(g), needed, sink);
        }
    }

    Workspace<B, T>& work_;
    Part part_;
};

}  // namespace gnfast
