// Any layer, and the two that are made of others or of nothing.
#pragma once

#include <algorithm>
#include <limits>
#include <variant>
#include <vector>

#include "algo/layers/activation.hpp"
#include "algo/layers/convolution.hpp"
#include "algo/layers/dense.hpp"
#include "algo/layers/norm.hpp"
#include "algo/layers/pool.hpp"

namespace gnfast {

template <class T>
struct Layer;

namespace layers {

// x -> factor x
struct Scale {
    double factor = 1;
};

// x -> shortcut(x) + scale body(x); an empty list is the identity.
template <class T>
struct Residual {
    std::vector<Layer<T>> body, shortcut;
    double scale = 1;
};

}  // namespace layers

template <class T>
struct Layer : std::variant<layers::Dense<T>, layers::Activation, layers::Convolution<T>, layers::Pool<T>, layers::Norm<T>, layers::Scale,
                            layers::Residual<T>> {
    using std::variant<layers::Dense<T>, layers::Activation, layers::Convolution<T>, layers::Pool<T>, layers::Norm<T>, layers::Scale,
                       layers::Residual<T>>::variant;
};

template <class T>
index parameters_of(const std::vector<Layer<T>>& all);

template <class T>
index parameters_of(const Layer<T>& layer) {
    if (const auto* dense = std::get_if<layers::Dense<T>>(&layer)) return dense->parameters();
    if (const auto* convolution = std::get_if<layers::Convolution<T>>(&layer)) return convolution->parameters();
    if (const auto* norm = std::get_if<layers::Norm<T>>(&layer)) return norm->parameters();
    if (const auto* block = std::get_if<layers::Residual<T>>(&layer)) return parameters_of(block->body) + parameters_of(block->shortcut);
    return 0;
}

template <class T>
index parameters_of(const std::vector<Layer<T>>& all) {
    index total = 0;
    for (const Layer<T>& layer : all) total += parameters_of(layer);
    return total;
}

// The layers whose parameters lie from `first` up to `last` in the flat vector: all, or one of them. Vectors of a part begin at `first`.
struct Part {
    index first = 0, last = std::numeric_limits<index>::max();

    bool holds(index offset) const { return first <= offset && offset < last; }
    // The layer with its parameters where vectors of the part have them.
    template <class L>
    L within(L layer) const {
        layer.offset -= first;
        return layer;
    }
};

// Whether the layer, or one inside of it, has parameters of the part.
template <class T>
bool touches(const Layer<T>& layer, const Part& part) {
    const auto inside = [&](const std::vector<Layer<T>>& all) {
        return std::any_of(all.begin(), all.end(), [&](const Layer<T>& one) { return touches(one, part); });
    };
    if (const auto* block = std::get_if<layers::Residual<T>>(&layer)) return inside(block->body) || inside(block->shortcut);
    if (const auto* dense = std::get_if<layers::Dense<T>>(&layer)) return part.holds(dense->offset);
    if (const auto* convolution = std::get_if<layers::Convolution<T>>(&layer)) return part.holds(convolution->offset);
    const auto* norm = std::get_if<layers::Norm<T>>(&layer);
    return norm && norm->parameters() > 0 && part.holds(norm->offset);
}

// Whether an output depends on other samples than its own.
template <class T>
bool couples_samples(const std::vector<Layer<T>>& all) {
    for (const Layer<T>& layer : all) {
        if (const auto* norm = std::get_if<layers::Norm<T>>(&layer); norm && norm->couples_samples()) return true;
        const auto* block = std::get_if<layers::Residual<T>>(&layer);
        if (block && (couples_samples(block->body) || couples_samples(block->shortcut))) return true;
    }
    return false;
}

// What a layer takes and gives for each sample, what products with it cost, and what they keep: numbers, and multiply-adds.
struct Account {
    index width = 0;     // behind the layers seen so far
    double kept = 0;     // of the forward pass, a sample
    double live = 0;     // of tangents at one time, a sample and a vector
    double patches = 0;  // of one image, the largest
    double first = 0;    // multiply-adds of the products with the first parameters
    double later = 0;    // of those with all others
    bool moved = false;  // whether parameters came before

    void product(double multiply_adds) {
        (moved ? later : first) += multiply_adds;
        moved = true;
    }
};

template <class T>
void account(const std::vector<Layer<T>>& all, Account& seen) {
    for (const Layer<T>& layer : all) {
        const index before = seen.width;
        double inside = 0;
        if (const auto* dense = std::get_if<layers::Dense<T>>(&layer)) {
            seen.product(double(dense->fan_in()) * double(dense->fan_out()));
            seen.kept += double(before);
            seen.width = dense->fan_out();
        } else if (const auto* convolution = std::get_if<layers::Convolution<T>>(&layer)) {
            seen.product(convolution->gemm());
            seen.kept += double(before);
            seen.width = convolution->outputs();
            seen.patches = std::max(seen.patches, double(convolution->patch_numbers()));
            inside = convolution->bias ? double(convolution->weight.rows) : 0;
        } else if (const auto* pool = std::get_if<layers::Pool<T>>(&layer)) {
            seen.width = pool->outputs();
            if (pool->max) seen.kept += double(seen.width);
        } else if (const auto* norm = std::get_if<layers::Norm<T>>(&layer)) {
            seen.kept += double(norm->kept_numbers());
            seen.moved = seen.moved || norm->parameters() > 0;
        } else if (std::holds_alternative<layers::Activation>(layer)) {
            seen.kept += double(before);
        } else if (const auto* block = std::get_if<layers::Residual<T>>(&layer)) {
            // The body's result waits while the shortcut is walked.
            Account body = seen, shortcut = seen;
            body.live = shortcut.live = body.kept = shortcut.kept = body.first = body.later = shortcut.first = shortcut.later = 0;
            account(block->body, body);
            account(block->shortcut, shortcut);
            seen.kept += body.kept + shortcut.kept;
            seen.first += body.first + shortcut.first;
            seen.later += body.later + shortcut.later;
            seen.patches = std::max({seen.patches, body.patches, shortcut.patches});
            seen.moved = body.moved || shortcut.moved;
            seen.width = body.width;
            inside = std::max(body.live, double(seen.width) + shortcut.live);
        }
        seen.live = std::max(seen.live, double(before) + double(seen.width) + inside);
    }
}

}  // namespace gnfast
