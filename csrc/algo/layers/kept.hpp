// What products need of one layer's forward pass: matrices with a row a sample, nested where layers are.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/types.hpp"

namespace gnfast::layers {

template <class T>
struct Kept {
    View<const T> input;               // (n, inputs)
    View<const T> derivative;          // (n, width), of an activation
    View<const std::int32_t> chosen;   // (n, outputs), of max pooling
    View<const T> normalized;          // (n, width), of a normalisation, and
    View<const T> inverse;             // (n, groups), what its values were multiplied by; one row for all where the batch is the group
    std::vector<Kept> body, shortcut;  // of a residual block

    // The same for the samples first, ..., first + count - 1.
    Kept range(index first, index count) const {
        const auto rows = [&](auto view) { return view.data ? view.row_range(first, count) : view; };
        Kept out{rows(input), rows(derivative), rows(chosen), rows(normalized), rows(inverse), {}, {}};
        for (const Kept& one : body) out.body.push_back(one.range(first, count));
        for (const Kept& one : shortcut) out.shortcut.push_back(one.range(first, count));
        return out;
    }
};

// The members of a batch one below another, as which they lie.
template <class T>
View<T> flat(Batch<T> t) {
    return {t.first.data, t.count * t.first.rows, t.first.cols};
}

// Who holds the memory that the views of Kept look at.
template <class B, class T>
class Store {
   public:
    explicit Store(B& backend) : backend_(backend) {}

    template <class U = T>
    View<U> make(index rows, index cols) {
        auto owner = std::make_shared<typename B::template buffer<U>>(backend_.template allocate<U>(rows * cols));
        const View<U> view(owner->data(), rows, cols);
        owners_.push_back(std::move(owner));
        return view;
    }
    void keep(std::shared_ptr<void> owner) { owners_.push_back(std::move(owner)); }

   private:
    B& backend_;
    std::vector<std::shared_ptr<void>> owners_;
};

}  // namespace gnfast::layers
