// Random neurons drawn, mixed, activated and summed up a tile at a time on the device: the sums stay there until the last tile is in them.
#pragma once

#include <algorithm>
#include <vector>

#include "core/neurons.hpp"
#include "cuda/buffer.hpp"
#include "cuda/calls.hpp"
#include "cuda/kernels.hpp"
#include "cuda/precision.hpp"
#include "cuda/runtime.hpp"

namespace gnfast::cuda::neurons {

// A small matrix of the host's on the device.
class Uploaded {
   public:
    Uploaded() = default;
    explicit Uploaded(View<const double> host) : buffer_(host.rows * host.cols), rows_(host.rows), cols_(host.cols) {
        if (buffer_.size() > 0) upload(host.data, host.stride, buffer_.data(), cols_, rows_, cols_, sizeof(double));
    }
    View<const double> view() const { return {buffer_.data(), rows_, cols_}; }

   private:
    Buffer<double> buffer_;
    index rows_ = 0, cols_ = 0;
};

// Neurons [first, first + count) of some layers. F: an activation of core/pointwise.hpp. See cpu/neurons.hpp, whose steps these are.
template <class F>
class Tile {
   public:
    Tile(F formula, const Neurons& neurons, index lowest, index highest, index size)
        : formula_(formula), neurons_(neurons), lowest_(lowest), size_(size) {
        if (neurons.at(lowest).skip != 0) inputs_ = Uploaded(neurons.inputs);
        if (neurons.at(highest + 1).skip != 0) top_ = Uploaded(neurons.top);
        index most = 1;
        for (index l = lowest; l <= highest; ++l) {
            const NeuronLayer& layer = neurons.at(l);
            most = std::max({most, layer.mix.cols, layer.fresh});
            levels_.push_back({Uploaded(layer.mix), Uploaded(layer.behind), Buffer<double>(numbers(neurons, l) * size), {}, {}, {}, {}});
        }
        single_ = Buffer<float>(most * size);
    }

    // Doubles of one neuron.
    static index numbers(const Neurons& neurons, index l) {
        const NeuronLayer& layer = neurons.at(l);
        return layer.mix.cols + layer.fresh + 2 * neurons.samples + layer.behind.rows;
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
            if (c == 0) continue;
            draw(layer.forward_stream, first, level.g);
            const View<double> z = level.state.row_range(0, n);
            call::gemm(Op::none, Op::none, 1.0, level.mix.view(), View<const double>(level.g), 0.0, z);
            if (layer.skip != 0) add(layer.skip, l == 0 ? from(inputs_.view(), first) : View<const double>(of(l - 1).state), z);
            kernels::apply(current_stream(), formula_, View<const double>(z), z, level.derivative);
        }
    }

    // Draws h of the layer, below its activations.
    void draw_fresh(index first, index l) {
        draw(neurons_.at(l).backward_stream, first, of(l).state.row_range(neurons_.samples, neurons_.at(l).fresh));
    }

    // Derivatives of the outputs, from layer `highest` down to `last`.
    void backward(index first, index highest, index last) {
        for (index l = highest; l >= last; --l) {
            Level& level = of(l);
            if (level.state.cols == 0) continue;
            draw_fresh(first, l);
            call::gemm(Op::none, Op::none, 1.0, level.behind.view(), View<const double>(level.state), 0.0, level.b);
            const bool outputs_above = l + 2 == index(neurons_.layers.size());
            const double skip = neurons_.at(l + 1).skip;
            if (skip != 0) add(skip, outputs_above ? from(top_.view(), first) : View<const double>(of(l + 1).b), level.b);
            kernels::multiply_row_groups(current_stream(), level.b, View<const double>(level.derivative), neurons_.rows);
        }
    }

    View<const double> g(index l) const { return of(l).g; }
    View<const double> activations(index l) const { return of(l).state.row_range(0, neurons_.samples); }
    View<const double> fresh(index l) const { return of(l).state.row_range(neurons_.samples, neurons_.at(l).fresh); }
    View<const double> b(index l) const { return of(l).b; }

   private:
    struct Level {
        Uploaded mix, behind;
        Buffer<double> memory;
        View<double> g, state, derivative, b;
    };

    Level& of(index l) { return levels_[static_cast<std::size_t>(l - lowest_)]; }
    const Level& of(index l) const { return levels_[static_cast<std::size_t>(l - lowest_)]; }

    void draw(std::uint64_t stream, index first, View<double> out) {
        if (out.rows == 0 || out.cols == 0) return;
        const View<float> single(single_.data(), out.rows, out.cols);
        kernels::fill_normal(current_stream(), single, neurons_.seed, stream, 1.0, first);
        kernels::copy(current_stream(), View<const float>(single), out);
    }

    // Columns from `first` on, none where there are not so many.
    static View<const double> from(View<const double> a, index first) {
        const index begin = std::min(first, a.cols);
        return a.block(0, a.rows, begin, a.cols - begin);
    }

    // out += skip in, where both have columns.
    static void add(double skip, View<const double> in, View<double> out) {
        const index count = std::min(in.cols, out.cols);
        if (count > 0) kernels::scale_add(current_stream(), skip, in.block(0, in.rows, 0, count), 1.0, out.block(0, out.rows, 0, count));
    }

    F formula_;
    const Neurons& neurons_;
    index lowest_, size_;
    Uploaded inputs_, top_;
    Buffer<float> single_;
    std::vector<Level> levels_;
};

// sums (host) += the sum over the tiles of neurons [first, last) of work(tile, first, count, sums on the device). Waits once, at the end.
template <class F, class Work>
void stream(F formula, const Neurons& neurons, index lowest, index highest, index first, index last, View<double> sums, Work&& work) {
    constexpr double room = 1024.0 * 1024 * 1024;  // bytes of a tile: fills a GPU many times over, small beside its memory
    index numbers = 0;
    for (index l = lowest; l <= highest; ++l) numbers += Tile<F>::numbers(neurons, l);
    const index fitting = std::max<index>(128, index(room / (sizeof(double) * double(std::max<index>(1, numbers)))) / 64 * 64);
    const index size = neurons.tile ? neurons.tile : std::min(fitting, ceil_div(last - first, 4) * 4);
    Tile<F> tile(formula, neurons, lowest, highest, size);
    const Buffer<double> memory(sums.rows * sums.cols);
    const View<double> mine(memory.data(), sums.rows, sums.cols);
    kernels::fill(current_stream(), mine, 0.0);
    for (index at = first; at < last; at += size) work(tile, at, std::min(size, last - at), mine);
    std::vector<double> host(static_cast<std::size_t>(sums.rows * sums.cols));
    download(mine.data, mine.stride, host.data(), sums.cols, sums.rows, sums.cols, sizeof(double));
    for (index i = 0; i < sums.rows; ++i)
        for (index j = 0; j < sums.cols; ++j) sums.row(i)[j] += host[static_cast<std::size_t>(i * sums.cols + j)];
}

// As cpu/neurons.hpp has them, flops too: products and sums in double, the draws in float32.
template <class F>
void forward(F formula, const Neurons& neurons, index layer, index first, index last, View<double> sums, View<double> head) {
    const index lowest = neurons.lowest(layer), n = neurons.samples, q = neurons.at(layer).fresh;
    stream(formula, neurons, lowest, layer, first, last, sums, [&](Tile<F>& tile, index at, index count, View<double> mine) {
        tile.forward(at, count, layer);
        tile.draw_fresh(at, layer);
        const View<const double> a = tile.activations(layer);
        call::syrk(1.0, a, 1.0, mine.row_range(0, n));
        if (q > 0) call::gemm(Op::none, Op::transpose, 1.0, tile.fresh(layer), a, 1.0, mine.row_range(n, q));
        if (at < head.cols) {
            const index some = std::min(count, head.cols - at);
            download(a.data, a.stride, head.data + at, head.stride, n, some, sizeof(double));
        }
    });
}

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

}  // namespace gnfast::cuda::neurons
