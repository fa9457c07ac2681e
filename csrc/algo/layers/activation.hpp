// A pointwise activation: value and derivative in one pass, tangents and cotangents multiplied by the derivative.
#pragma once

#include "core/pointwise.hpp"
#include "core/types.hpp"

namespace gnfast::layers {

struct Activation {
    enum class Kind { relu, leaky_relu, tanh, gelu, gelu_tanh, sigmoid, silu, elu, softplus };

    Kind kind;
    double slope = 0;  // of leaky_relu

    // value may be z itself.
    template <class B, class T>
    void forward(B& backend, View<const T> z, View<T> value, View<T> derivative) const {
        switch (kind) {
            case Kind::relu:
                return backend.apply(pointwise::LeakyRelu{0.0}, z, value, derivative);
            case Kind::leaky_relu:
                return backend.apply(pointwise::LeakyRelu{slope}, z, value, derivative);
            case Kind::tanh:
                return backend.apply(pointwise::Tanh{}, z, value, derivative);
            case Kind::gelu:
                return backend.apply(pointwise::Gelu{}, z, value, derivative);
            case Kind::gelu_tanh:
                return backend.apply(pointwise::GeluTanh{}, z, value, derivative);
            case Kind::sigmoid:
                return backend.apply(pointwise::Sigmoid{}, z, value, derivative);
            case Kind::silu:
                return backend.apply(pointwise::Silu{}, z, value, derivative);
            case Kind::elu:
                return backend.apply(pointwise::Elu{1.0}, z, value, derivative);
            case Kind::softplus:
                return backend.apply(pointwise::Softplus{}, z, value, derivative);
        }
    }
};

}  // namespace gnfast::layers
