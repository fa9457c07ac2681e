// Average and max pooling.
#pragma once

#include <utility>

#include "algo/layers/account.hpp"
#include "algo/layers/kept.hpp"
#include "algo/layers/part.hpp"
#include "core/windows.hpp"

namespace gnfast::layers {

template <class T>
struct Pool {
    bool max = false;  // else the average, padding counted as zeros
    Windows windows;

    index inputs() const { return windows.inputs(); }
    index outputs() const { return windows.channels * windows.positions(); }

    bool couples_samples() const { return false; }
    bool touched(const Part&) const { return false; }
    void tell(Account& seen) const {
        if (max) seen.kept += double(outputs());
        seen.through(outputs());
    }

    template <class Pass>
    typename Pass::Value forward(Pass& pass, const typename Pass::Value& x, Kept<T>& kept) const {
        const auto out = pass.make(x.view.rows, outputs());
        if (max) {
            const auto [chosen, owner] = pass.choices(kept.chosen, x.view.rows, outputs());
            pass.backend().pool_max(x.view, windows, out.view, chosen);
        } else {
            pass.backend().pool_average(x.view, windows, 0.0, out.view);
        }
        return out;
    }
    template <class W>
    typename W::Tangent jvp(W& walk, const Kept<T>& kept, View<const T>, index n, typename W::Tangent t) const {
        auto out = walk.make(t.batch.count, n, outputs());
        if (max)
            walk.backend().gather_chosen(kept.chosen, Batch<const T>(t.batch), T(0), out.batch);
        else
            walk.backend().pool_average(View<const T>(t.flat()), windows, T(0), out.flat());
        return out;
    }
    template <class W, class Sink>
    typename W::Tangent vjp(W& walk, const Kept<T>& kept, typename W::Tangent g, bool, Sink&) const {
        auto out = walk.make(g.batch.count, g.batch.first.rows, inputs());
        if (max)
            walk.backend().scatter_chosen(kept.chosen, windows, Batch<const T>(g.batch), T(0), out.batch);
        else
            walk.backend().spread_average(View<const T>(g.flat()), windows, T(0), out.flat());
        return out;
    }
};

}  // namespace gnfast::layers
