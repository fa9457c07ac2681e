// The list of layers, and what every layer answers.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "algo/layers/activation.hpp"
#include "algo/layers/convolution.hpp"
#include "algo/layers/dense.hpp"
#include "algo/layers/norm.hpp"
#include "algo/layers/pool.hpp"
#include "algo/layers/residual.hpp"
#include "algo/layers/scale.hpp"

namespace gnfast {

template <class T>
using AnyLayer = std::variant<layers::Dense<T>,        //
                              layers::Activation,      //
                              layers::Convolution<T>,  //
                              layers::Pool<T>,         //
                              layers::Norm<T>,         //
                              layers::Scale,           //
                              layers::Residual<T>>;

template <class T>
struct Layer : AnyLayer<T> {
    using AnyLayer<T>::variant;
};

// A layer that makes tangents behind it of those before it, and cotangents the other way: see Convolution.
template <class L, class Work, class T>
concept LayerMap = requires(const L& layer, Work& work, const layers::Kept<T>& kept, Batch<const T> t, Batch<T> out, T beta) {
    { layer.inputs() } -> std::same_as<index>;
    { layer.outputs() } -> std::same_as<index>;
    layer.push(work, kept, t, out, beta);
    layer.pull(work, kept, t, out);
};

// A layer with parameters of its own has directions and gradients in them besides; has_moments: whether K-FAC knows it, by the second
// moments of its inputs and of cotangents behind it.
template <class L>
constexpr bool has_parameters = requires(L layer) { layer.offset; };
template <class L, class Work, class T>
concept LayerWithParameters = LayerMap<L, Work, T> && requires(const L& layer, Work& work, const layers::Kept<T>& kept, View<const T> v,
                                                               View<T> grad, Batch<const T> t, Batch<T> out, T beta) {
    { layer.parameters() } -> std::same_as<index>;
    layer.direction(work, kept, v, out);
    layer.gradient(work, kept, t, beta, grad);
    layer.sample_gradients(work, kept, t, out);
    requires !L::has_moments || requires(View<double> moment) {
        layer.add_input_moment(work, kept, moment);
        layer.add_output_moment(work, t, moment);
    };
};

// What every layer answers. Pass is a Forward, W a Walk, which lend their helpers.
//
// couples_samples   whether an output depends on other samples than its own
// touched           whether it, or a layer inside of it, has parameters of the part
// tell              what it takes and gives, keeps and costs
// forward           outputs of inputs, in double, and what products need of them
// jvp, vjp          if it is no LayerMap: the tangents behind it, and the cotangents before it if they are needed
template <class L, class Pass, class W>
concept LayerFor =
    requires(const L& layer, Account& seen, const Part& part, Pass& pass, const typename Pass::Value& x, typename Pass::Kept& kept) {
        { layer.couples_samples() } -> std::same_as<bool>;
        { layer.touched(part) } -> std::same_as<bool>;
        { layer.tell(seen) } -> std::same_as<void>;
        { layer.forward(pass, x, kept) } -> std::same_as<typename Pass::Value>;
        requires !has_parameters<L> || LayerWithParameters<L, typename W::Work, typename W::Value>;
        requires LayerMap<L, typename W::Work, typename W::Value> ||
                     requires(W& walk, typename W::Vectors v, index n, typename W::Tangent t, typename W::AnySink sink) {
                         { layer.jvp(walk, std::as_const(kept), v, n, std::move(t)) } -> std::same_as<typename W::Tangent>;
                         { layer.vjp(walk, std::as_const(kept), std::move(t), true, sink) } -> std::same_as<typename W::Tangent>;
                     };
    };

template <class Any, class Pass, class W>
constexpr bool all_answer = false;
template <class... Ls, class Pass, class W>
constexpr bool all_answer<std::variant<Ls...>, Pass, W> = (LayerFor<Ls, Pass, W> && ...);

template <class T>
bool touched(const Layer<T>& one, const Part& part) {
    return std::visit([&](const auto& layer) { return layer.touched(part); }, one);
}

// The layer if it is a dense one, else nullptr; and whether it is one of those of which a chain is made.
template <class T>
const layers::Dense<T>* as_dense(const Layer<T>& one) {
    return std::get_if<layers::Dense<T>>(&one);
}
template <class T>
bool stands_in_chain(const Layer<T>& one) {
    return as_dense(one) || std::holds_alternative<layers::Activation>(one);
}

template <class T>
bool couples_samples(const std::vector<Layer<T>>& all) {
    return any_of(all, [](const auto& layer) { return layer.couples_samples(); });
}

}  // namespace gnfast
