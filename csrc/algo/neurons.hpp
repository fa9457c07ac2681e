// Layers of random neurons as n samples see them, drawn, mixed, activated and summed up a tile of neurons at a time: all that is needed
// to draw any of them, and to draw them again. Matrices of the host, double.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <vector>

#include "core/types.hpp"

namespace gnfast {

// Neuron j of a layer has standard normal g_j (r) and h_j (q), column j of the random matrices of two streams in float32, and
//   z_j = mix g_j + skip a'_j            pre-activations (n), a' of the same neuron one layer below; a_j, d_j = the activation and its
//                                        derivative there
//   b_j = (behind [a_j; h_j] + skip' b'_j) o d_j     derivatives (n rows) of the outputs, ' one layer above; d_j once for the rows of a
//   sample
// Identities are rectangular: there is nothing below or above where the other layer has no neuron j.
struct NeuronLayer {
    index width = 0;
    double skip = 0;
    View<const double> mix{};     // (n, r)
    View<const double> behind{};  // (n rows, n + q), for the way back only
    index fresh = 0;              // q
    std::uint64_t forward_stream = 0, backward_stream = 0;
};

struct Neurons {
    std::uint64_t seed = 0;
    index samples = 0;
    index rows = 0;                     // of derivatives a sample
    index tile = 0;                     // neurons at a time at most; 0: as many as the backend likes
    View<const double> inputs{};        // (n, d): what lies below the first layer
    View<const double> top{};           // (n rows, k): b of the last layer
    std::vector<NeuronLayer> layers{};  // the outputs last

    // The layers that must be drawn for neurons of `layer`: those that lead to it through skips, and for the way back those above.
    index lowest(index layer) const {
        while (layer > 0 && at(layer).skip != 0) --layer;
        return layer;
    }
    index highest(index layer) const {
        while (layer + 2 < index(layers.size()) && at(layer + 1).skip != 0) ++layer;
        return layer;
    }
    const NeuronLayer& at(index layer) const { return layers[static_cast<std::size_t>(layer)]; }
};

// What a tile asks of a backend. `tile_verbs` works on matrices where the backend's sums are made, on one thread of a processor or on the
// stream of a GPU; it is made for draws of so many rows and columns at once. A `constant` is a small matrix of the host's there.
template <class B, class F>
concept DrawsNeurons = requires(B& backend, typename B::tile_verbs verbs, typename B::tile_verbs::constant constant, F formula, index i,
                                double x, std::uint64_t key, View<double> out, View<const double> in) {
    requires std::constructible_from<typename B::tile_verbs, index, index>;
    requires std::constructible_from<typename B::tile_verbs::constant, View<const double>>;
    { constant.view() } -> std::same_as<View<const double>>;
    verbs.draw(key, key, i, out);           // columns from i on, a multiple of 4, of a stream's normal numbers in float32
    verbs.multiply(in, in, out);            // out = in in
    verbs.add_multiplied(in, in, out);      // out += in in^T
    verbs.add_gram(in, out);                // lower triangle of out += in in^T
    verbs.apply(formula, out, out);         // value in place of z, derivative
    verbs.scale_add(x, in, out);            // out += x in
    verbs.multiply_row_groups(out, in, i);  // i consecutive rows of out *= one row of in
    verbs.read(in, out);                    // to the host
    // sums (host) += the sum of work(tile, first, count, sums where they are made) over the tiles of [first, last), the same whatever the
    // number of threads; make(size) is a space for tiles of `size` columns. Before `first`: numbers of a column, and the largest size or 0.
    backend.sum_tiles(i, i, i, i, out, [](index) { return 0; }, [](int&, index, index, View<double>) {});
};

// Neurons [first, first + count) of some layers. V: tile_verbs; F: an activation of core/pointwise.hpp.
template <class V, class F>
class Tile {
   public:
    Tile(F formula, const Neurons& neurons, index lowest, index highest, index size)
        : formula_(formula),
          neurons_(neurons),
          lowest_(lowest),
          size_(size),
          verbs_(most_draws(neurons, lowest, highest), size),
          inputs_(neurons.at(lowest).skip != 0 ? neurons.inputs : View<const double>()),
          top_(neurons.at(highest + 1).skip != 0 ? neurons.top : View<const double>()) {
        for (index l = lowest; l <= highest; ++l) {
            const NeuronLayer& layer = neurons.at(l);
            levels_.push_back(
                {Constant(layer.mix), Constant(layer.behind), Memory(numbers(layer, neurons.samples) * size), {}, {}, {}, {}});
        }
    }

    // Of one neuron.
    static index numbers(const Neurons& neurons, index lowest, index highest) {
        index total = 0;
        for (index l = lowest; l <= highest; ++l) total += numbers(neurons.at(l), neurons.samples);
        return total;
    }

    V& verbs() { return verbs_; }

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
            verbs_.draw(neurons_.seed, layer.forward_stream, first, level.g);
            const View<double> z = level.state.row_range(0, n);
            verbs_.multiply(level.mix.view(), level.g, z);
            if (layer.skip != 0) add(layer.skip, l == 0 ? from(inputs_.view(), first) : View<const double>(of(l - 1).state), z);
            verbs_.apply(formula_, z, level.derivative);
        }
    }

    // Draws h of the layer, below its activations.
    void draw_fresh(index first, index l) {
        verbs_.draw(neurons_.seed, neurons_.at(l).backward_stream, first, of(l).state.row_range(neurons_.samples, neurons_.at(l).fresh));
    }

    // Derivatives of the outputs, from layer `highest` down to `last`.
    void backward(index first, index highest, index last) {
        for (index l = highest; l >= last; --l) {
            Level& level = of(l);
            if (level.state.cols == 0) continue;
            draw_fresh(first, l);
            verbs_.multiply(level.behind.view(), level.state, level.b);
            const bool outputs_above = l + 2 == index(neurons_.layers.size());
            const double skip = neurons_.at(l + 1).skip;
            if (skip != 0) add(skip, outputs_above ? from(top_.view(), first) : View<const double>(of(l + 1).b), level.b);
            verbs_.multiply_row_groups(level.b, level.derivative, neurons_.rows);
        }
    }

    View<const double> g(index l) const { return of(l).g; }
    View<const double> activations(index l) const { return of(l).state.row_range(0, neurons_.samples); }
    View<const double> fresh(index l) const { return of(l).state.row_range(neurons_.samples, neurons_.at(l).fresh); }
    View<const double> b(index l) const { return of(l).b; }

   private:
    using Constant = typename V::constant;
    using Memory = typename V::buffer;
    struct Level {
        Constant mix, behind;
        Memory memory;
        View<double> g, state, derivative, b;
    };

    static index numbers(const NeuronLayer& layer, index samples) { return layer.mix.cols + layer.fresh + 2 * samples + layer.behind.rows; }
    static index most_draws(const Neurons& neurons, index lowest, index highest) {
        index most = 0;
        for (index l = lowest; l <= highest; ++l) most = std::max({most, neurons.at(l).mix.cols, neurons.at(l).fresh});
        return most;
    }

    Level& of(index l) { return levels_[static_cast<std::size_t>(l - lowest_)]; }
    const Level& of(index l) const { return levels_[static_cast<std::size_t>(l - lowest_)]; }

    // Columns from `first` on, none where there are not so many.
    static View<const double> from(View<const double> a, index first) {
        const index begin = std::min(first, a.cols);
        return a.block(0, a.rows, begin, a.cols - begin);
    }

    // out += skip in, where both have columns.
    void add(double skip, View<const double> in, View<double> out) {
        const index count = std::min(in.cols, out.cols);
        if (count > 0) verbs_.scale_add(skip, in.block(0, in.rows, 0, count), out.block(0, out.rows, 0, count));
    }

    F formula_;
    const Neurons& neurons_;
    index lowest_, size_;
    V verbs_;
    Constant inputs_, top_;
    std::vector<Level> levels_;
};

// sums (n + q, n) += [a; h] a^T over neurons [first, last) of a layer, of the upper block the lower triangle; head (n, some) gets the
// activations of the layer's first neurons. A neuron costs 2 n r + n^2 + 2 q n flops and r + q draws.
template <class B, class F>
void sum_forward(B& backend, F formula, const Neurons& neurons, index layer, index first, index last, View<double> sums,
                 View<double> head) {
    using Space = Tile<typename B::tile_verbs, F>;
    const index lowest = neurons.lowest(layer), n = neurons.samples, q = neurons.at(layer).fresh;
    const auto make = [&](index size) { return Space(formula, neurons, lowest, layer, size); };
    const auto work = [&](Space& tile, index at, index count, View<double> mine) {
        tile.forward(at, count, layer);
        tile.draw_fresh(at, layer);
        const View<const double> a = tile.activations(layer);
        tile.verbs().add_gram(a, mine.row_range(0, n));
        tile.verbs().add_multiplied(tile.fresh(layer), a, mine.row_range(n, q));
        const index some = std::min(count, head.cols - at);
        if (some > 0) tile.verbs().read(a.block(0, n, 0, some), head.block(0, n, at, some));
    };
    backend.sum_tiles(Space::numbers(neurons, lowest, layer), neurons.tile, first, last, sums, make, work);
}

// sums (n rows, n rows + r or n rows) += b [b; g]^T, of the first block the lower triangle.
// A neuron costs 2 n r + 2 N (n + q) + N^2 + 2 N r flops, N = n rows, and r + q draws.
template <class B, class F>
void sum_backward(B& backend, F formula, const Neurons& neurons, index layer, index first, index last, View<double> sums) {
    using Space = Tile<typename B::tile_verbs, F>;
    const index lowest = neurons.lowest(layer), highest = neurons.highest(layer), rows = neurons.samples * neurons.rows;
    const auto make = [&](index size) { return Space(formula, neurons, lowest, highest, size); };
    const auto work = [&](Space& tile, index at, index count, View<double> mine) {
        tile.forward(at, count, highest);
        tile.backward(at, highest, layer);
        const View<const double> b = tile.b(layer);
        tile.verbs().add_gram(b, mine.block(0, rows, 0, rows));
        if (sums.cols > rows) tile.verbs().add_multiplied(b, tile.g(layer), mine.block(0, rows, rows, sums.cols - rows));
    };
    backend.sum_tiles(Space::numbers(neurons, lowest, highest), neurons.tile, first, last, sums, make, work);
}

// Lower triangle of sums (r, r) += g g^T, g the columns [first, last) of a stream: r^2 flops and r draws each.
template <class B>
void sum_draws(B& backend, std::uint64_t seed, std::uint64_t stream, index tile, index first, index last, View<double> sums) {
    using V = typename B::tile_verbs;
    struct Space {
        V verbs;
        typename V::buffer memory;
        index size;
    };
    const index r = sums.rows;
    const auto make = [&](index size) { return Space{V(r, size), typename V::buffer(r * size), size}; };
    const auto work = [&](Space& space, index at, index count, View<double> mine) {
        const View<double> g(space.memory.data(), r, count, space.size);
        space.verbs.draw(seed, stream, at, g);
        space.verbs.add_gram(g, mine);
    };
    backend.sum_tiles(r, tile, first, last, sums, make, work);
}

// The first columns of a stream: to the last digit the numbers that tiles have, which others' arithmetic may not be.
template <class B>
void draw_columns(std::uint64_t seed, std::uint64_t stream, View<double> out) {
    if (out.rows == 0) return;
    typename B::tile_verbs verbs(out.rows, out.cols);
    const typename B::tile_verbs::buffer memory(out.rows * out.cols);
    const View<double> there(memory.data(), out.rows, out.cols);
    verbs.draw(seed, stream, 0, there);
    verbs.read(there, out);
}

}  // namespace gnfast
