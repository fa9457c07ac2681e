// Average and max pooling.
#pragma once

#include <utility>

#include "algo/layers/account.hpp"
#include "algo/layers/kept.hpp"
#include "algo/layers/part.hpp"
#include "algo/workspace.hpp"
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

    template <class B>
    void push(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> t, Batch<T> out, T beta) const {
        if (max) return work.backend.gather_chosen(kept.chosen, t, beta, out);
        work.backend.pool_average(flat(t), windows, beta, flat(out));
    }
    template <class B>
    void pull(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, Batch<T> t) const {
        if (max) return work.backend.scatter_chosen(kept.chosen, windows, g, T(0), t);
        work.backend.spread_average(flat(g), windows, T(0), flat(t));
    }
};

}  // namespace gnfast::layers
