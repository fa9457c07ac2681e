// The factored product of all dense layers at once on the threads: what is packed for it, and how the work is dealt out.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "core/backend.hpp"
#include "cpu/buffer.hpp"
#include "cpu/panels.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu {

template <class T>
class Factored {
   public:
    Factored() = default;
    Factored(std::span<const FactoredTerm<T>> terms, index r) : terms_(terms.begin(), terms.end()), r_(r) {
        const index w = panels::width<T>();
        for (const FactoredTerm<T>& term : terms_) {
            const index n = term.inputs.rows, in = term.inputs.cols, out = term.rows.cols;
            const index sample_panels = ceil_div(n, w), column_panels = ceil_div(in, w);
            memory_.push_back(Buffer<T>(size(n, in, out, r, w)));
            T *by_sample = memory_.back().data(), *by_column = by_sample + sample_panels * in * w;
            const panels::Layer<T> layer{n, in, out, r, w, by_sample, by_column, by_column + column_panels * n * w};
            parallel_ranges(sample_panels, 1,
                            [&](index first, index count) { panels::pack_samples(term.inputs, term.rows, layer, first, first + count); });
            parallel_ranges(column_panels, 1,
                            [&](index first, index count) { panels::pack_columns(term.inputs, layer, first, first + count); });
            layers_.push_back(layer);
        }
    }

    explicit operator bool() const { return !layers_.empty(); }

    // Bytes that one layer's packed inputs and backward rows take; 0 where this processor has no kernels, or where so few
    // samples would leave most of a panel empty (8 of them were a third slower, 16 as fast as without).
    static double bytes(index n, index fan_in, index fan_out, index r) {
        const index w = panels::width<T>();
        return w == 0 || n < 16 ? 0.0 : double(size(n, fan_in, fan_out, r, w)) * sizeof(T);
    }
    // Bytes that a block of s vectors takes on all threads.
    static double workspace_bytes(index n, index r, index s) {
        const index w = panels::width<T>();
        return double(num_threads()) * double(panels::scratch<T> + ceil_div(n, w) * w * r * s) * sizeof(T);
    }

    // out = G v, a block of vectors, one a row; false if v has NaN or infinite values, or overflows, and out was left alone.
    bool product(View<const T> v, View<T> out) {
        const index s = v.rows, u_size = ceil_div(layers_.front().samples, panels::width<T>()) * panels::width<T>() * r_ * s;
        const index threads = num_threads();
        if (u_.size() < threads * u_size) u_ = Buffer<T>(threads * u_size);
        if (scratch_.size() < threads * panels::scratch<T>) scratch_ = Buffer<T>(threads * panels::scratch<T>);
        const std::vector<Chunk> chunks = cut(s);

        // Each thread has its own u, and its own run of chunks of about equal flops: the sum does not depend on chance.
        parallel_for(threads, [&](index t) {
            T* const u = u_.data() + t * u_size;
            std::fill_n(u, u_size, T(0));
            for (const Chunk& chunk : chunks) {
                if (chunk.thread != t) continue;
                panels::project(layers_[chunk.layer], block(chunk, v), u, scratch_.data() + t * panels::scratch<T>);
            }
        });
        T* const u = u_.data();
        for (index t = 1; t < threads; ++t)
            for (index q = 0; q < u_size; ++q) u[q] += u[t * u_size + q];
        double total = 0;  // NaN and inf of a vector reach u, which is much smaller to look through
        for (index q = 0; q < u_size; ++q) total += std::abs(double(u[q]));
        if (!std::isfinite(total)) return false;

        parallel_for(static_cast<index>(chunks.size()), [&](index at) {
            const Chunk& chunk = chunks[static_cast<std::size_t>(at)];
            panels::gradient(layers_[chunk.layer], u, block(chunk, out), scratch_.data() + omp_get_thread_num() * panels::scratch<T>);
        });
        return true;
    }

   private:
    struct Chunk {
        std::size_t layer;
        index first, count, thread;
    };

    static index size(index n, index in, index out, index r, index w) {
        return ceil_div(n, w) * w * in + ceil_div(in, w) * w * n + ceil_div(n, w) * w * r * out;
    }

    template <class U>
    panels::Block<U> block(const Chunk& chunk, View<U> vectors) const {
        const panels::Layer<T>& layer = layers_[chunk.layer];
        U* const weight = vectors.data + terms_[chunk.layer].offset;
        U* const bias = terms_[chunk.layer].bias ? weight + layer.fan_in * layer.fan_out : nullptr;
        return {chunk.first, chunk.count, vectors.rows, weight, bias, vectors.stride};
    }

    std::vector<Chunk> cut(index s) const {
        double all = 0, done = 0;
        for (const panels::Layer<T>& layer : layers_) all += double(layer.fan_in) * double(layer.fan_out);
        const index count = std::max<index>(1, panels::block_rows<T> / s);
        std::vector<Chunk> chunks;
        for (std::size_t l = 0; l < layers_.size(); ++l)
            for (index first = 0; first < layers_[l].fan_out; first += count) {
                const index here = std::min(count, layers_[l].fan_out - first);
                chunks.push_back({l, first, here, static_cast<index>(double(num_threads()) * done / all)});
                done += double(here) * double(layers_[l].fan_in);
            }
        return chunks;
    }

    std::vector<FactoredTerm<T>> terms_;
    index r_ = 0;
    std::vector<panels::Layer<T>> layers_;
    std::vector<Buffer<T>> memory_;
    Buffer<T> u_, scratch_;
};

}  // namespace gnfast::cpu
