// x -> shortcut(x) + scale body(x); an empty list is the identity.
#pragma once

#include <algorithm>
#include <utility>
#include <variant>
#include <vector>

#include "algo/layers/account.hpp"
#include "algo/layers/kept.hpp"
#include "algo/layers/part.hpp"

namespace gnfast {

template <class T>
struct Layer;

// Whether f says so of one of the layers.
template <class T, class F>
bool any_of(const std::vector<Layer<T>>& all, F&& f) {
    return std::any_of(all.begin(), all.end(), [&](const Layer<T>& one) { return std::visit(f, one); });
}

namespace layers {

template <class T>
struct Residual {
    std::vector<Layer<T>> body, shortcut;
    double scale = 1;

    bool couples_samples() const {
        return inside([](const auto& layer) { return layer.couples_samples(); });
    }
    bool touched(const Part& part) const {
        return inside([&](const auto& layer) { return layer.touched(part); });
    }
    void tell(Account& seen) const {
        Account through = branch(seen, body), beside = branch(seen, shortcut);
        seen.kept += through.kept + beside.kept;
        seen.first += through.first + beside.first;
        seen.later += through.later + beside.later;
        seen.patches = std::max({seen.patches, through.patches, beside.patches});
        seen.moved = through.moved || beside.moved;
        // The body's result waits while the shortcut is walked.
        seen.through(through.width, std::max(through.live, double(through.width) + beside.live));
    }

    template <class Pass>
    typename Pass::Value forward(Pass& pass, const typename Pass::Value& x, Kept<T>& kept) const {
        const auto through = pass.walk(body, x, kept.body), beside = pass.walk(shortcut, x, kept.shortcut);
        const auto out = pass.make(x.view.rows, through.view.cols);
        pass.backend().copy(beside.view, out.view);
        pass.backend().scale_add(scale, through.view, 1.0, out.view);
        return out;
    }
    template <class W>
    typename W::Tangent jvp(W& walk, const Kept<T>& kept, View<const T> v, index n, typename W::Tangent t) const {
        auto through = walk.apart(walk.push(body, kept.body, v, n, t.lend()));
        return walk.sum(walk.push(shortcut, kept.shortcut, v, n, std::move(t)), scale, std::move(through));
    }
    template <class W, class Sink>
    typename W::Tangent vjp(W& walk, const Kept<T>& kept, typename W::Tangent g, bool needed, Sink& sink) const {
        auto through = walk.apart(walk.pull(body, kept.body, walk.scaled(scale, g.lend()), needed, sink));
        auto beside = walk.pull(shortcut, kept.shortcut, std::move(g), needed, sink);
        return needed ? walk.sum(std::move(beside), 1, std::move(through)) : typename W::Tangent{};
    }

   private:
    template <class F>
    bool inside(const F& f) const {
        return any_of(body, f) || any_of(shortcut, f);
    }
    static Account branch(const Account& before, const std::vector<Layer<T>>& all) {
        Account out;
        out.width = before.width, out.patches = before.patches, out.moved = before.moved;
        for (const Layer<T>& one : all) std::visit([&](const auto& layer) { layer.tell(out); }, one);
        return out;
    }
};

}  // namespace layers
}  // namespace gnfast
