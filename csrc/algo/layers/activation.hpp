// A pointwise activation: value and derivative in one pass, tangents and cotangents multiplied by the derivative.
#pragma once

#include <utility>

#include "algo/layers/account.hpp"
#include "algo/layers/part.hpp"
#include "core/pointwise.hpp"

namespace gnfast::layers {

struct Activation {
    enum class Kind { identity, relu, leaky_relu, tanh, gelu, gelu_tanh, sigmoid, silu, elu, softplus };

    Kind kind;
    double slope = 0;  // of leaky_relu

    // f of the formula in core/pointwise.hpp.
    template <class F>
    auto with_formula(F&& f) const {
        switch (kind) {
            case Kind::relu:
                return f(pointwise::LeakyRelu{0.0});
            case Kind::leaky_relu:
                return f(pointwise::LeakyRelu{slope});
            case Kind::tanh:
                return f(pointwise::Tanh{});
            case Kind::gelu:
                return f(pointwise::Gelu{});
            case Kind::gelu_tanh:
                return f(pointwise::GeluTanh{});
            case Kind::sigmoid:
                return f(pointwise::Sigmoid{});
            case Kind::silu:
                return f(pointwise::Silu{});
            case Kind::elu:
                return f(pointwise::Elu{1.0});
            case Kind::softplus:
                return f(pointwise::Softplus{});
            case Kind::identity:
                break;
        }
        return f(pointwise::Identity{});
    }

    bool couples_samples() const { return false; }
    bool touched(const Part&) const { return false; }
    void tell(Account& seen) const {
        seen.kept += double(seen.width);
        seen.through(seen.width);
    }

    template <class Pass>
    typename Pass::Value forward(Pass& pass, const typename Pass::Value& x, typename Pass::Kept& kept) const {
        const auto derivative = pass.make(x.view.rows, x.view.cols), out = pass.make_like(x);
        with_formula([&](auto formula) { pass.backend().apply(formula, x.view, out.view, derivative.view); });
        pass.keep(derivative, kept.derivative);
        return out;
    }
    template <class W>
    typename W::Tangent jvp(W& walk, const typename W::Kept& kept, typename W::Vectors, index, typename W::Tangent t) const {
        return walk.multiplied(kept.derivative, std::move(t));
    }
    template <class W, class Sink>
    typename W::Tangent vjp(W& walk, const typename W::Kept& kept, typename W::Tangent g, bool, Sink&) const {
        return walk.multiplied(kept.derivative, std::move(g));
    }
};

}  // namespace gnfast::layers
