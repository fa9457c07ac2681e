// Products with the Jacobian of a network of any layers, and its rows, at blocks of samples.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "algo/network.hpp"
#include "algo/walk.hpp"

namespace gnfast {

template <class B, class T>
class General {
   public:
    // patches: numbers that the patches of images may take at a time; the blocks are those in which rows are made.
    General(const ForwardPass<B, T>& pass, index patches, index sample_block, index vector_block)
        : network_(pass.network()),
          pass_(pass),
          work_(network_.backend(), patches),
          samples_(pass.samples()),
          sample_block_(sample_block),
          vector_block_(vector_block) {}

    // J v at the samples i, ..., i + n - 1, (s, n, outputs), for the rows of v (s, p), p the part's parameters; here until the next call.
    Batch<T> jvp(View<const T> v, index i, index n, Part part) {
        current_ = {};
        current_ = walk(part).push(network_.layers(), pass_.kept(i, n), v, n, {});
        return current_.batch;
    }

    // Room for cotangents (s, n, outputs), to be given to vjp.
    Batch<T> cotangents(index s, index n) {
        current_ = {};
        current_ = walk({}).make(s, n, network_.outputs());
        return current_.batch;
    }

    // out = beta out + J^T g, g being what jvp or cotangents returned last.
    void vjp(index i, index n, T beta, View<T> out, Part part) {
        walk(part).pull(
            network_.layers(), pass_.kept(i, n), std::move(current_), false,
            [&](const auto& layer, const layers::Kept<T>& kept, Batch<const T> g) { layer.gradient(work_, kept, g, beta, out); });
        current_ = {};
    }

    // out (count r, p): the rows R_i^T J_i of the samples i = first, ..., first + count - 1, factor (samples r, outputs) holding all
    // R_i^T. r cotangents are pulled back from each sample.
    void rows(View<const T> factor, index r, index first, index count, View<T> out, Part part) {
        if (network_.couples_samples()) return coupled_rows(factor, r, first * r, out, part);
        pull_factor(factor, r, first, count, part, [&](index i, index c, const auto& layer, const layers::Kept<T>& kept, Batch<const T> g) {
            const Batch<T> target(View<T>(out.row(i * r + c), g.first.rows, out.cols, r * out.stride), g.count, out.stride);
            layer.sample_gradients(work_, kept, g, target);
        });
    }

    // f(i, c, layer, kept, g) with the cotangents g, at each of the part's layers, of the rows R_i^T from number c on of the samples first
    // + i and on: in blocks of both.
    template <class F>
    void pull_factor(View<const T> factor, index r, index first, index count, Part part, F&& f) {
        for (index i = 0; i < count; i += sample_block_)
            for (index c = 0; c < r; c += vector_block_) {
                const index n = std::min(sample_block_, count - i), s = std::min(vector_block_, r - c), k = network_.outputs();
                auto g = walk(part).make(s, n, k);
                for (index q = 0; q < s; ++q)
                    network_.backend().copy(View<const T>(factor.row((first + i) * r + c + q), n, k, r * factor.stride), g.batch[q]);
                walk(part).pull(network_.layers(), pass_.kept(first + i, n), std::move(g), false,
                                [&](const auto& layer, const layers::Kept<T>& kept, Batch<const T> at) { f(i, c, layer, kept, at); });
            }
    }

    Workspace<B, T>& work() { return work_; }

   private:
    Walk<B, T> walk(Part part) { return Walk<B, T>(work_, part); }

    // Where an output depends on all samples: each row is a product of its own over the whole batch.
    void coupled_rows(View<const T> factor, index r, index first, View<T> out, Part part) {
        for (index at = 0; at < out.rows; at += vector_block_) {
            const index s = std::min(vector_block_, out.rows - at);
            const Batch<T> g = cotangents(s, samples_);
            network_.backend().fill(View<T>(g.first.data, s, g.step), T(0));
            for (index q = 0; q < s; ++q) {
                const index row = first + at + q;
                network_.backend().copy(factor.row_range(row, 1), g[q].row_range(row / r, 1));
            }
            vjp(0, samples_, T(0), out.row_range(at, s), part);
        }
    }

    const Network<B, T>& network_;
    const ForwardPass<B, T>& pass_;
    Workspace<B, T> work_;
    index samples_, sample_block_, vector_block_;
    typename Walk<B, T>::Tangent current_;
};

}  // namespace gnfast
