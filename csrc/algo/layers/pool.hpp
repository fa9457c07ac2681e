// Average and max pooling.
#pragma once

#include "algo/layers/kept.hpp"
#include "algo/workspace.hpp"
#include "core/windows.hpp"

namespace gnfast::layers {

template <class T>
struct Pool {
    bool max = false;  // else the average, padding counted as zeros
    Windows windows;

    index inputs() const { return windows.inputs(); }
    index outputs() const { return windows.channels * windows.positions(); }

    template <class B>
    void push(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> t, Batch<T> out, T beta) const {
        if (max) return work.backend.gather_chosen(kept.chosen, t, beta, out);
        work.backend.pool_average(flat(t), windows, beta, flat(out));
    }

    template <class B>
    void pull(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, Batch<T> t, T beta) const {
        if (max) return work.backend.scatter_chosen(kept.chosen, windows, g, beta, t);
        work.backend.spread_average(flat(g), windows, beta, flat(t));
    }

   private:
    template <class U>
    static View<U> flat(Batch<U> t) {
        return {t.first.data, t.count * t.first.rows, t.first.cols};
    }
};

}  // namespace gnfast::layers
