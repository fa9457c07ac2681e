// Samples through layers of all kinds, in double whatever the network's type: what products keep of it is rounded once. A pass in float has
// errors as large as eps times its pre-activations, which saturated activations pass on to their derivatives: on images of 0 to 255 up to
// 400 eps of the largest eigenvalue. Double costs twice the time of one pass in float, half of a product or less, once.
#pragma once

#include <algorithm>
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
    using AllKept = std::vector<layers::Kept<T>>;
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

   private:
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

    // The block's rows of a matrix of all samples that the store made.
    template <class U>
    View<U> rows_of(View<const U> all, index count) const {
        return View<U>(const_cast<U*>(all.data), all.rows, all.cols).row_range(first_, count);
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

    Value walk(const std::vector<Layer<T>>& all, Value x, AllKept& kept) {
        kept.resize(all.size());
        for (std::size_t l = 0; l < all.size(); ++l) x = std::visit([&](const auto& layer) { return one(layer, x, kept[l]); }, all[l]);
        return x;
    }

    // z = x W^T + b
    Value one(const layers::Dense<T>& layer, const Value& x, layers::Kept<T>& kept) {
        keep(x, kept.input);
        const index rows = layer.fan_out(), fit = index(half_ / (8 * double(layer.fan_in())));
        const index panel = rounds ? std::clamp<index>(fit, 1, rows) : rows;
        const Made out = make(x.view.rows, rows);
        for (index row = 0; row < rows; row += panel) {
            const index count = std::min(panel, rows - row);
            const InDouble<B, T> weight(backend_, layer.weight.row_range(row, count));
            backend_.gemm(Op::none, Op::transpose, 1.0, x.view, weight.view(), 0.0, out.view.block(0, out.view.rows, row, count));
        }
        if (layer.bias) {
            const InDouble<B, T> bias(backend_, View<const T>(layer.bias, 1, rows));
            backend_.add_row(Batch<double>(out.view, 1, 0), Batch<const double>(bias.view(), 1, 0));
        }
        return out;
    }

    Value one(const layers::Convolution<T>& layer, const Value& x, layers::Kept<T>& kept) {
        keep(x, kept.input);
        const InDouble<B, T> weight(backend_, layer.weight), bias(backend_, View<const T>(layer.bias, 1, layer.weight.rows));
        const Made out = make(x.view.rows, layer.outputs());
        layers::Convolution<double>{weight.view(), bias.view().data, layer.windows, layer.groups, 0}.forward(work_, x.view, out.view);
        return out;
    }

    Value one(const layers::Norm<T>& layer, const Value& x, layers::Kept<T>& kept) {
        const index n = x.view.rows;
        const bool batch = layer.couples_samples(), keeps = layer.kept_numbers() > 0;
        const Made out = make(n, x.view.cols), normalized = keeps ? make(n, x.view.cols) : out;
        const Made factors = layer.given() ? Made{} : make(batch ? 1 : n, layer.shape.groups());
        layer.forward(backend_, x.view, normalized.view, factors.view, out.view);
        if (keeps) keep(normalized, kept.normalized);
        if (!batch && !layer.given()) keep(factors, kept.inverse);
        if (batch && store_) {  // every sample's row is the same one
            const View<T> row = store_->make(1, factors.view.cols);
            backend_.copy(View<const double>(factors.view), row);
            kept.inverse = View<const T>(row.data, n, row.cols, 0);
        }
        return out;
    }

    Value one(const layers::Pool<T>& layer, const Value& x, layers::Kept<T>& kept) {
        const Made out = make(x.view.rows, layer.outputs());
        if (!layer.max) {
            backend_.pool_average(x.view, layer.windows, 0.0, out.view);
            return out;
        }
        layers::Store<B, T> passing(backend_);
        layers::Store<B, T>& store = store_ ? *store_ : passing;
        if (!store_ || !kept.chosen.data) kept.chosen = store.template make<std::int32_t>(store_ ? samples_ : out.view.rows, out.view.cols);
        const index before = store_ ? first_ : 0;
        const View<std::int32_t> all(const_cast<std::int32_t*>(kept.chosen.data), kept.chosen.rows, kept.chosen.cols);
        backend_.pool_max(x.view, layer.windows, out.view, all.row_range(before, out.view.rows));
        return out;
    }

    Value one(const layers::Activation& layer, const Value& x, layers::Kept<T>& kept) {
        const Made derivative = make(x.view.rows, x.view.cols), out = make_like(x);
        layer.forward(backend_, x.view, out.view, derivative.view);
        keep(derivative, kept.derivative);
        return out;
    }

    Value one(const layers::Scale& layer, const Value& x, layers::Kept<T>&) {
        const Made out = make_like(x);
        backend_.scale_add(layer.factor, x.view, 0.0, out.view);
        return out;
    }

    Value one(const layers::Residual<T>& block, const Value& x, layers::Kept<T>& kept) {
        const Value body = walk(block.body, x, kept.body), shortcut = walk(block.shortcut, x, kept.shortcut);
        const Made out = make(x.view.rows, body.view.cols);
        backend_.copy(shortcut.view, out.view);
        backend_.scale_add(block.scale, body.view, 1.0, out.view);
        return out;
    }

    B& backend_;
    Workspace<B, double> work_;
    layers::Store<B, T>* store_;
    index samples_, first_ = 0;
    double half_;
};

}  // namespace gnfast
