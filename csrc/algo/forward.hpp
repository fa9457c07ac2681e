// Samples through layers of all kinds, in double whatever the network's type: what products keep of it is rounded once. A pass in float has
// errors as large as eps times its pre-activations, which saturated activations pass on to their derivatives: on images of 0 to 255 up to
// 400 eps of the largest eigenvalue. Double costs twice the time of one pass in float, half of a product or less, once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "algo/in_double.hpp"
#include "algo/layers/kept.hpp"
#include "algo/layers/layer.hpp"
#include "algo/workspace.hpp"

namespace gnfast {

// How much memory a pass may take besides what it keeps.
struct ForwardRoom {
    index patches = index(1) << 20;  // numbers that the patches of images may take at a time
    double bytes = 0;                // for a block of samples, and for rows of a weight in double; 0: the backend's choice
};

template <class B, class T>
class Forward {
   public:
    using Kept = layers::Kept<T>;
    using AllKept = std::vector<Kept>;
    // Values at the block's samples: somebody else's, or a buffer that is freed unless it is kept; and where they are kept, if they are.
    struct Value {
        View<const double> view;
        std::shared_ptr<void> owner;
        std::shared_ptr<View<const T>> kept;
    };
    struct Made {
        View<double> view;
        std::shared_ptr<void> owner;
        operator Value() const { return {view, owner, std::make_shared<View<const T>>()}; }
    };
    static constexpr bool rounds = !std::is_same_v<T, double>;

    // Bytes of a sample in a block, `live` numbers being what stands before and behind a layer: half as much again for derivatives.
    static double sample_bytes(double live) { return 1.5 * 8 * live; }
    // What one sample takes at least besides what is kept: nothing worth counting where that is what the layers make.
    static double least_bytes(double live) { return rounds ? sample_bytes(live) : 0; }

    // store: who keeps what products need, or nullptr for the outputs alone; samples: of all blocks.
    Forward(B& backend, layers::Store<B, T>* store, index samples, ForwardRoom room)
        : backend_(backend),
          work_(backend, room.patches / (rounds ? 2 : 1)),
          store_(store),
          samples_(samples),
          half_(std::max(room.bytes > 0 ? std::min(room.bytes, B::block_bytes) : B::block_bytes, 1.0) / 2) {}

    // sink(first sample, their outputs (count, k) in double) for one block after another.
    template <class Sink>
    void run(const std::vector<Layer<T>>& all, View<const T> x, const Account& account, AllKept& kept, Sink&& sink) {
        // What is kept without rounding is what the layers make: all samples at once.
        const bool whole = couples_samples(all) || (store_ && !rounds);
        const index fit = index(half_ / sample_bytes(account.live)), block = whole ? x.rows : std::clamp<index>(fit, 1, x.rows);
        for (first_ = 0; first_ < x.rows; first_ += block) {
            const InDouble<B, T> wide(backend_, x.row_range(first_, std::min(block, x.rows - first_)));
            const Value out = walk(all, {wide.view(), nullptr, std::make_shared<View<const T>>(x)}, kept);
            sink(first_, out.view);
        }
    }

    // ------------------------------------------------------------------------------------------ what layers make their outputs with
    B& backend() const { return backend_; }
    Workspace<B, double>& work() { return work_; }
    InDouble<B, T> in_double(View<const T> parameters) const { return {backend_, parameters}; }
    // Rows of a weight that are in double at a time.
    index weight_rows(index rows, index cols) const {
        return rounds ? std::clamp<index>(index(half_ / (8 * double(cols))), 1, rows) : rows;
    }

    Made make(index rows, index cols) {
        auto owner = std::make_shared<typename B::template buffer<double>>(backend_.template allocate<double>(rows * cols));
        const View<double> view(owner->data(), rows, cols);
        return {view, std::move(owner)};
    }
    // For what is made of x alone, number by number: in place where nobody else has x.
    Made make_like(const Value& x) {
        if (x.owner.use_count() != 1) return make(x.view.rows, x.view.cols);
        return {View<double>(const_cast<double*>(x.view.data), x.view.rows, x.view.cols), x.owner};
    }

    void keep(const Value& x, View<const T>& target) {
        if (!store_) return;
        if (!x.kept->data) {
            if constexpr (rounds) {
                if (!target.data) target = store_->make(samples_, x.view.cols);
                backend_.copy(x.view, rows_of(target, x.view.rows));
                *x.kept = target;
            } else {
                *x.kept = x.view;
                store_->keep(x.owner);
            }
        }
        target = *x.kept;
    }
    // One row that is the same for n samples.
    void keep_for_all(const Made& one, index n, View<const T>& target) {
        if (!store_) return;
        const View<T> row = store_->make(1, one.view.cols);
        backend_.copy(View<const double>(one.view), row);
        target = View<const T>(row.data, n, row.cols, 0);
    }
    // Room for what is chosen at n samples, kept or for as long as what is returned with it lives.
    std::pair<View<std::int32_t>, layers::Store<B, T>> choices(View<const std::int32_t>& target, index n, index cols) {
        layers::Store<B, T> passing(backend_);
        if (!store_) {
            const View<std::int32_t> all = passing.template make<std::int32_t>(n, cols);
            return {all, std::move(passing)};
        }
        if (!target.data) target = store_->template make<std::int32_t>(samples_, cols);
        return {rows_of(target, n), std::move(passing)};
    }

    Value walk(const std::vector<Layer<T>>& all, Value x, AllKept& kept) {
        kept.resize(all.size());
        for (std::size_t l = 0; l < all.size(); ++l)
            x = std::visit([&](const auto& layer) -> Value { return layer.forward(*this, x, kept[l]); }, all[l]);
        return x;
    }

   private:
    // The block's rows of a matrix of all samples that the store made.
    template <class U>
    View<U> rows_of(View<const U> all, index count) const {
        return View<U>(const_cast<U*>(all.data), all.rows, all.cols).row_range(first_, count);
    }

    B& backend_;
    Workspace<B, double> work_;
    layers::Store<B, T>* store_;
    index samples_, first_ = 0;
    double half_;
};

}  // namespace gnfast
