// Batch and layer normalisation, y = weight normalized + bias. With given statistics the first is a scaling of channels; with those of
// the batch it couples the samples, and its tangents are products over the whole batch.
#pragma once

#include <cmath>
#include <stdexcept>
#include <vector>

#include "algo/in_double.hpp"
#include "algo/layers/kept.hpp"
#include "algo/workspace.hpp"
#include "core/norm.hpp"

namespace gnfast::layers {

template <class T>
struct Norm {
    NormShape shape;
    const T* weight = nullptr;  // (channels) or none
    const T* bias = nullptr;    // (channels) or none; follows the weight among the parameters
    double eps = 0;
    // Given statistics, (channels): normalized = inverse x + shift, and gain = weight inverse, the same as inverse without a weight.
    const double *inverse = nullptr, *shift = nullptr;
    const T* gain = nullptr;
    index offset = 0;

    index parameters() const { return shape.channels * ((weight ? 1 : 0) + (bias ? 1 : 0)); }
    bool given() const { return inverse != nullptr; }
    bool couples_samples() const { return !given() && shape.group == 0; }
    // Numbers that are kept of a sample.
    index kept_numbers() const { return given() ? (weight ? shape.width : 0) : shape.width + shape.groups(); }

    // out = y of x, in double whatever T, and what tangents need of it: `normalized` (n, width), which may be out where kept_numbers() is
    // 0, and, unless statistics are given, the factors (1, channels) of the batch or (n, groups) of samples.
    template <class B>
    void forward(B& backend, View<const double> x, View<double> normalized, View<double> factors, View<double> out) const {
        const InDouble<B, T> gains(backend, View<const T>(weight, 1, shape.channels)),
            shifts(backend, View<const T>(bias, 1, shape.channels));
        const auto each = [](View<const double> one) { return Batch<const double>(one, 1, 0); };
        if (given()) {
            const View<const double> a(inverse, 1, shape.channels), b(shift, 1, shape.channels);
            backend.affine_channels(each(x), each(a), each(b), shape, 0.0, Batch<double>(normalized, 1, 0));
        } else {
            backend.normalize(x, shape, eps, normalized, factors);
            if (eps == 0) check_spread(backend, factors);
        }
        if (weight || bias || normalized.data != out.data)
            backend.affine_channels(each(normalized), each(gains.view()), each(shifts.view()), shape, 0.0, Batch<double>(out, 1, 0));
    }

    // out_j = dweight_j normalized + dbias_j
    template <class B>
    void direction(Workspace<B, T>& work, const Kept<T>& kept, View<const T> v, Batch<T> out) const {
        const auto part = [&](index at) { return Batch<const T>(View<const T>(v.data + at, 1, shape.channels), v.rows, v.stride); };
        const Batch<const T> x = weight ? Batch<const T>(kept.normalized, v.rows, 0) : nothing();
        work.backend.affine_channels(x, weight ? part(offset) : nothing(), bias ? part(bias_offset()) : nothing(), shape, T(0), out);
    }

    template <class B>
    void push(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> t, Batch<T> out, T beta) const {
        move(work, kept, t, false, beta, out);
    }

    template <class B>
    void pull(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, Batch<T> t, T beta) const {
        move(work, kept, g, true, beta, t);
    }

    template <class B>
    void gradient(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, T beta, View<T> grad) const {
        sums(work, kept, g, beta, Batch<T>(View<T>(grad.data, 1, grad.cols), grad.rows, grad.stride));
    }

    // Not for layers that couple the samples: a sample's outputs have a derivative at every sample.
    template <class B>
    void sample_gradients(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, Batch<T> rows) const {
        sums(work, kept, g, T(0), rows);
    }

   private:
    index bias_offset() const { return offset + (weight ? shape.channels : 0); }
    Batch<const T> row(const T* values) const { return {View<const T>(values, 1, shape.channels), 1, 0}; }
    static Batch<const T> nothing() { return {View<const T>(), 1, 0}; }
    template <class B>
    void check_spread(B& backend, View<const double> factors) const {
        std::vector<double> room;
        const View<const double> seen = backend.on_host(factors, room);
        for (index i = 0; i < seen.rows; ++i)
            for (index c = 0; c < seen.cols; ++c)
                if (std::isinf(seen.row(i)[c]))
                    throw std::invalid_argument(
                        shape.group ? "layer normalisation divides by the standard deviation of a sample's values, which is 0 "
                                      "where they are all the same, and eps is 0; give the layer a positive eps"
                                    : "batch normalisation divides by the standard deviation of a channel, which is 0 where "
                                      "it is the same at all samples, and eps is 0; give the layer a positive eps");
    }

    // The derivative in the inputs, and its adjoint.
    template <class B>
    void move(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> t, bool adjoint, T beta, Batch<T> out) const {
        if (given()) return work.backend.affine_channels(t, row(gain), nothing(), shape, beta, out);
        const View<const T> factor(weight, 1, shape.channels);
        work.backend.normalize_derivative(kept.normalized, kept.inverse, shape, factor, adjoint, t, beta, out);
    }

    // To the places of weight and bias in vectors of parameters: sums over the samples, or, for vectors of their own, none.
    template <class B>
    void sums(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, T beta, Batch<T> out) const {
        const auto part = [&](index at) {
            return Batch<T>(View<T>(out.first.data + at, out.first.rows, shape.channels, out.first.stride), out.count, out.step);
        };
        if (weight) work.backend.sum_channels_of(g, kept.normalized, shape, beta, part(offset));
        if (bias) work.backend.sum_channels_of(g, View<const T>(), shape, beta, part(bias_offset()));
    }
};

}  // namespace gnfast::layers
