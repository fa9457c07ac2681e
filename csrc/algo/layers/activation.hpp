// A pointwise activation: value and derivative in one pass, tangents and cotangents multiplied by the derivative.
#pragma once

#include "core/pointwise.hpp"
#include "core/types.hpp"

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

    // value may be z itself.
    template <class B, class T>
    void forward(B& backend, View<const T> z, View<T> value, View<T> derivative) const {
        with_formula([&](auto formula) { backend.apply(formula, z, value, derivative); });
    }
};

}  // namespace gnfast::layers
