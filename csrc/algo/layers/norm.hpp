// Batch and layer normalisation, y = weight normalized + bias. With given statistics the first is a scaling of channels; with those of
// the batch it couples the samples, and its tangents are products over the whole batch.
#pragma once

#include <cmath>
#include <stdexcept>
#include <vector>

#include "algo/in_double.hpp"
#include "algo/layers/account.hpp"
#include "algo/layers/kept.hpp"
#include "algo/layers/part.hpp"
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

    index inputs() const { return shape.width; }
    index outputs() const { return shape.width; }
    index parameters() const { return shape.channels * ((weight ? 1 : 0) + (bias ? 1 : 0)); }
    bool given() const { return inverse != nullptr; }
    bool couples_samples() const { return !given() && shape.group == 0; }
    static constexpr bool has_moments = false;  // no weight matrix
    bool touched(const Part& part) const { return parameters() > 0 && part.holds(offset); }
    void tell(Account& seen) const {
        seen.kept += double(kept_numbers());
        seen.moved = seen.moved || parameters() > 0;
        seen.through(shape.width);
    }
    // Numbers that are kept of a sample.
    index kept_numbers() const { return given() ? (weight ? shape.width : 0) : shape.width + shape.groups(); }

    // Tangents need `normalized` (n, width), which is the outputs themselves where nothing is kept, and, unless statistics are given, the
    // factors (1, channels) of the batch or (n, groups) of samples.
    template <class Pass>
    typename Pass::Value forward(Pass& pass, const typename Pass::Value& x, Kept<T>& kept) const {
        auto& backend = pass.backend();
        const auto each = [](View<const double> one) { return Batch<const double>(one, 1, 0); };
        const bool keeps = kept_numbers() > 0;
        const auto out = pass.make(x.view.rows, x.view.cols), normalized = keeps ? pass.make(x.view.rows, x.view.cols) : out;
        const auto gains = pass.in_double(View<const T>(weight, 1, shape.channels));
        const auto shifts = pass.in_double(View<const T>(bias, 1, shape.channels));
        if (given()) {
            const View<const double> a(inverse, 1, shape.channels), b(shift, 1, shape.channels);
            backend.affine_channels(each(x.view), each(a), each(b), shape, 0.0, Batch<double>(normalized.view, 1, 0));
        } else {
            const auto factors = pass.make(couples_samples() ? 1 : x.view.rows, shape.groups());
            backend.normalize(x.view, shape, eps, normalized.view, factors.view);
            if (eps == 0) check_spread(backend, factors.view);
            couples_samples() ? pass.keep_for_all(factors, x.view.rows, kept.inverse) : pass.keep(factors, kept.inverse);
        }
        if (weight || bias || keeps)
            backend.affine_channels(each(normalized.view), each(gains.view()), each(shifts.view()), shape, 0.0,
                                    Batch<double>(out.view, 1, 0));
        if (keeps) pass.keep(normalized, kept.normalized);
        return out;
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
    void pull(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, Batch<T> t) const {
        move(work, kept, g, true, T(0), t);
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
