// Where precision and device are dispatched: what the files of api/ share, and nobody else includes.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "algo/layers/activation.hpp"
#include "algo/solvers/options.hpp"
#include "api/engine.hpp"
#ifdef GNFAST_CUDA_MODULE
#include "cuda/cuda_backend.hpp"
#else
#include "cpu/cpu_backend.hpp"
#endif

namespace gnfast::api::dispatch {

// The files of api/ and bind/ are compiled once for each device, into modules of their own.
#ifdef GNFAST_CUDA_MODULE
using B = cuda::CudaBackend;
#else
using B = cpu::CpuBackend;
#endif

inline B& backend() {
    static B one;
    return one;
}

template <class T>
constexpr DType dtype_of = std::is_same_v<T, float> ? DType::float32 : DType::float64;

template <class T>
View<T> view(Array a) {
    return {static_cast<T*>(a.data), a.rows, a.cols};
}
template <class T>
View<const T> read(Array a) {
    return view<T>(a);
}

// f.template operator()<T>() for the type that dtype names: the only dispatch there is.
template <class F>
auto by_dtype(DType dtype, F&& f) {
    return dtype == DType::float32 ? f.template operator()<float>() : f.template operator()<double>();
}

inline layers::Activation activation(const std::string& name, double slope) {
    using Kind = layers::Activation::Kind;
    static const std::map<std::string, Kind> kinds{{"identity", Kind::identity}, {"relu", Kind::relu}, {"leaky_relu", Kind::leaky_relu},
                                                   {"tanh", Kind::tanh},         {"gelu", Kind::gelu}, {"gelu_tanh", Kind::gelu_tanh},
                                                   {"sigmoid", Kind::sigmoid},   {"silu", Kind::silu}, {"elu", Kind::elu},
                                                   {"softplus", Kind::softplus}};
    const auto found = kinds.find(name);
    if (found == kinds.end()) throw std::invalid_argument("activation '" + name + "' is not known to the core");
    return {found->second, slope};
}

template <class T>
solvers::Apply<T> as_function(Operator& op) {
    solvers::Apply<T> apply = [&op](View<const T> in, View<T> out) {
        op.apply({const_cast<T*>(in.data), in.rows, in.cols}, {out.data, out.rows, out.cols});
    };
    apply.resolution = op.resolution();
    apply.inner = op.inner();
    return apply;
}

}  // namespace gnfast::api::dispatch
