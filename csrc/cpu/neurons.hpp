// Random neurons drawn, mixed, activated and summed up a tile at a time, the tile staying in the second cache.
#pragma once

#include <algorithm>
#include <vector>

#include "core/neurons.hpp"
#include "cpu/buffer.hpp"
#include "cpu/calls.hpp"
#include "cpu/kernels.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu::neurons {

// Neurons [first, first + count) of some layers on one thread. F: an activation of core/pointwise.hpp.
template <class F>
class Tile {
   public:
    Tile(F formula, const Neurons& neurons, index lowest, index highest, index size)
        : formula_(formula), neurons_(neurons), lowest_(lowest), size_(size), single_(size) {
        for (index l = lowest; l <= highest; ++l) {
            const NeuronLayer& layer = neurons.at(l);
            const index n = neurons.samples, rows = layer.behind.data ? n * neurons.rows : 0;
            levels_.push_back({Buffer<double>((layer.mix.cols + 2 * n + layer.fresh + rows) * size), {}, {}, {}, {}});
        }
    }

    // Doubles of one neuron.
    static index numbers(const Neurons& neurons, index lowest, index highest) {
        index total = 0;
        for (index l = lowest; l <= highest; ++l)
            total += neurons.at(l).mix.cols + neurons.at(l).fresh + (2 + (neurons.at(l).behind.data ? neurons.rows : 0)) * neurons.samples;
        return total;
    }

    // Activations and derivatives of all layers up to `last`.
    void forward(index first, index count, index last) {
        const index n = neurons_.samples;
        for (index l = lowest_; l <= last; ++l) {
            const NeuronLayer& layer = neurons_.at(l);
            Level& level = of(l);
            const index c = std::clamp<index>(layer.width - first, 0, count), r = layer.mix.cols, q = layer.fresh;
            double* const memory = level.memory.data();
            level.g = View<double>(memory, r, c, size_);
            level.state = View<double>(memory + r * size_, n + q, c, size_);
            level.derivative = View<double>(memory + (r + n + q) * size_, n, c, size_);
            level.b = View<double>(memory + (r + n + q + n) * size_, layer.behind.rows, c, size_);
            draw(layer.forward_stream, first, level.g);
            const View<double> z = level.state.row_range(0, n);
            call::gemm(Op::none, Op::none, 1.0, layer.mix, View<const double>(level.g), 0.0, z);
            if (layer.skip != 0) add(layer.skip, l == 0 ? from(neurons_.inputs, first) : View<const double>(of(l - 1).state), z);
            for (index i = 0; i < n; ++i) {
                double *const value = z.row(i), *const derivative = level.derivative.row(i);
                for (index j = 0; j < c; ++j) formula_(value[j], value[j], derivative[j]);
            }
        }
    }

    // Draws h of the layer, below its activations.
    void draw_fresh(index first, index l) {
        draw(neurons_.at(l).backward_stream, first, of(l).state.row_range(neurons_.samples, neurons_.at(l).fresh));
    }

    // Derivatives of the outputs, from layer `highest` down to `last`.
    void backward(index first, index highest, index last) {
        const index r = neurons_.rows;
        for (index l = highest; l >= last; --l) {
            const NeuronLayer& layer = neurons_.at(l);
            Level& level = of(l);
            draw_fresh(first, l);
            call::gemm(Op::none, Op::none, 1.0, layer.behind, View<const double>(level.state), 0.0, level.b);
            const bool outputs_above = l + 2 == index(neurons_.layers.size());
            const double skip = neurons_.at(l + 1).skip;
            if (skip != 0) add(skip, outputs_above ? from(neurons_.top, first) : View<const double>(of(l + 1).b), level.b);
            for (index row = 0; row < level.b.rows; ++row) kernels::multiply(level.derivative.row(row / r), level.b.row(row), level.b.cols);
        }
    }

    View<const double> g(index l) const { return of(l).g; }
    View<const double> activations(index l) const { return of(l).state.row_range(0, neurons_.samples); }
    View<const double> fresh(index l) const { return of(l).state.row_range(neurons_.samples, neurons_.at(l).fresh); }
    View<const double> b(index l) const { return of(l).b; }

   private:
    struct Level {
        Buffer<double> memory;
        View<double> g, state, derivative, b;
    };

    Level& of(index l) { return levels_[static_cast<std::size_t>(l - lowest_)]; }
    const Level& of(index l) const { return levels_[static_cast<std::size_t>(l - lowest_)]; }

    void draw(std::uint64_t stream, index first, View<double> out) {
        for (index i = 0; i < out.rows; ++i) {
            kernels::normal_row(neurons_.seed, stream, std::uint64_t(i), std::uint64_t(first), 1.0, single_.data(), out.cols);
            std::copy_n(single_.data(), out.cols, out.row(i));
        }
    }

    // Columns from `first` on, none where there are not so many.
    static View<const double> from(View<const double> a, index first) {
        const index begin = std::min(first, a.cols);
        return a.block(0, a.rows, begin, a.cols - begin);
    }

    // out += skip in, where both have columns.
    static void add(double skip, View<const double> in, View<double> out) {
        const index count = std::min(in.cols, out.cols);
        for (index i = 0; i < out.rows; ++i) kernels::combine(skip, in.row(i), 1.0, out.row(i), count);
    }

    F formula_;
    const Neurons& neurons_;
    index lowest_, size_;
    Buffer<float> single_;
    std::vector<Level> levels_;
};

// sums += the sum over the tiles of neurons [first, last) of work(tile, first, count, sums). Chunks of tiles are summed on one thread
// each and added in their order, so that the number of threads changes nothing.
template <class F, class Work>
void stream(F formula, const Neurons& neurons, index lowest, index highest, index first, index last, View<double> sums, Work&& work) {
    constexpr index cache = 96 * 1024;  // doubles that a tile may fill
    constexpr index least = 128, most = 512, tiles = 4;
    const index fitting = cache / std::max<index>(1, Tile<F>::numbers(neurons, lowest, highest)) / 64 * 64;
    const index size = neurons.tile ? neurons.tile : std::clamp(fitting, least, most), chunk = tiles * size;
    const index chunks = ceil_div(last - first, chunk), slots = std::min<index>(num_threads(), chunks), numbers = sums.rows * sums.cols;
    std::vector<Tile<F>> spaces;
    for (index s = 0; s < slots; ++s) spaces.emplace_back(formula, neurons, lowest, highest, size);
    Buffer<double> memory(slots * numbers);
    for (index c = 0; c < chunks; c += slots) {
        const index now = std::min(slots, chunks - c);
        parallel_for(now, [&](index s) {
            const View<double> mine(memory.data() + s * numbers, sums.rows, sums.cols);
            std::fill_n(mine.data, numbers, 0.0);
            const index begin = first + (c + s) * chunk, end = std::min(last, begin + chunk);
            for (index at = begin; at < end; at += size) work(spaces[std::size_t(s)], at, std::min(size, end - at), mine);
        });
        parallel_ranges(sums.rows, ceil_div(16384, sums.cols), [&](index row, index count) {
            for (index s = 0; s < now; ++s)
                for (index i = row; i < row + count; ++i)
                    kernels::combine(1.0, memory.data() + s * numbers + i * sums.cols, 1.0, sums.row(i), sums.cols);
        });
    }
}

// sums (n + q, n) += [a; h] a^T over neurons [first, last) of a layer, of the upper block the lower triangle; head (n, some) gets the
// activations of the layer's first neurons. A neuron costs 2 n r + n^2 + 2 q n flops and r + q draws.
template <class F>
void forward(F formula, const Neurons& neurons, index layer, index first, index last, View<double> sums, View<double> head) {
    const index lowest = neurons.lowest(layer), n = neurons.samples, q = neurons.at(layer).fresh;
    stream(formula, neurons, lowest, layer, first, last, sums, [&](Tile<F>& tile, index at, index count, View<double> mine) {
        tile.forward(at, count, layer);
        tile.draw_fresh(at, layer);
        const View<const double> a = tile.activations(layer);
        call::syrk(1.0, a, 1.0, mine.row_range(0, n));
        call::gemm(Op::none, Op::transpose, 1.0, tile.fresh(layer), a, 1.0, mine.row_range(n, q));
        if (at < head.cols)
            for (index i = 0; i < n; ++i) std::copy_n(a.row(i), std::min(count, head.cols - at), head.row(i) + at);
    });
}

// sums (n rows, n rows + r or n rows) += b [b; g]^T, of the first block the lower triangle.
// A neuron costs 2 n r + 2 N (n + q) + N^2 + 2 N r flops, N = n rows, and r + q draws.
template <class F>
void backward(F formula, const Neurons& neurons, index layer, index first, index last, View<double> sums) {
    const index lowest = neurons.lowest(layer), highest = neurons.highest(layer), rows = neurons.samples * neurons.rows;
    stream(formula, neurons, lowest, highest, first, last, sums, [&](Tile<F>& tile, index at, index count, View<double> mine) {
        tile.forward(at, count, highest);
        tile.backward(at, highest, layer);
        const View<const double> b = tile.b(layer);
        call::syrk(1.0, b, 1.0, mine.block(0, rows, 0, rows));
        if (sums.cols > rows) call::gemm(Op::none, Op::transpose, 1.0, b, tile.g(layer), 1.0, mine.block(0, rows, rows, sums.cols - rows));
    });
}

}  // namespace gnfast::cpu::neurons
