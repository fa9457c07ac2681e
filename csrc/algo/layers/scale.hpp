// x -> factor x
#pragma once

#include <utility>

#include "algo/layers/account.hpp"
#include "algo/layers/part.hpp"

namespace gnfast::layers {

struct Scale {
    double factor = 1;

    bool couples_samples() const { return false; }
    bool touched(const Part&) const { return false; }
    void tell(Account& seen) const { seen.through(seen.width); }

    template <class Pass>
    typename Pass::Value forward(Pass& pass, const typename Pass::Value& x, typename Pass::Kept&) const {
        const auto out = pass.make_like(x);
        pass.backend().scale_add(factor, x.view, 0.0, out.view);
        return out;
    }
    template <class W>
    typename W::Tangent jvp(W& walk, const typename W::Kept&, typename W::Vectors, index, typename W::Tangent t) const {
        return walk.scaled(factor, std::move(t));
    }
    template <class W, class Sink>
    typename W::Tangent vjp(W& walk, const typename W::Kept&, typename W::Tangent g, bool, Sink&) const {
        return walk.scaled(factor, std::move(g));
    }
};

}  // namespace gnfast::layers
