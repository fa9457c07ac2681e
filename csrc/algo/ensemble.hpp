// The Gram dual of a network with random weights, in law and without the weights: no array is as long as a layer is wide.
//
// A weight W of a layer is only ever seen through W A, A the layer's inputs at n samples, and through B W, B the derivatives of the
// outputs in its pre-activations. In orthonormal frames A = Q C^T and B = E U^T, with G, N standard normal and s^2 a weight's variance,
//   W A = s G C^T,   B W = s ((B G) Q^T + E N (I - Q Q^T))
// has the joint law of both (docs/mathematics.md#widths-without-weights). Neurons are rows of A, B^T, G and N^T, each a function of its
// own draws once the small matrices A^T A, N A, B B^T and B G are known, which are sums over neurons: a pass forward and a pass back over
// each layer draw them twice.
// A skip adds the same neuron's activation one layer below, or its derivative one layer above; those are drawn along.
//
// Orthogonal weights are g times a block of a Haar matrix of the longer side's size. Frames stand for Gaussian matrices: F = G L^-T with
// L L^T = G^T G, summed over as many rows as the longer side has, is a frame's first rows; N is replaced by the frame S^-1 N (I - Q Q^T),
// and E E^T is B (I - F F^T) B^T, what F has not taken. With F for G and E S^-1 for E the formulas are those above (docs/decisions/0021).
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "algo/frame.hpp"
#include "algo/neurons.hpp"
#include "algo/solvers/small.hpp"
#include "core/loss.hpp"
#include "core/monitor.hpp"

namespace gnfast {

struct NetworkLaw {
    std::uint64_t seed;
    std::vector<index> widths;      // of all layers, the outputs last
    std::vector<double> variances;  // of the entries of each weight
    std::vector<double> skips;
    bool orthogonal;  // orthonormal rows or columns in place of independent normal entries
    bool bias;        // whether biases are parameters; their values are zero
    Loss loss;
    double scale;  // of the sum over samples
    index tile;    // neurons at a time at most, a multiple of 4; 0: as many as the backend likes
};

// F: the activation, a formula of core/pointwise.hpp. One object draws one network.
template <class B, class F>
    requires DrawsNeurons<B, F>
class NetworkSample {
   public:
    // x (n, d) and the lower triangle of x x^T, host memory, borrowed.
    NetworkSample(B& backend, F formula, const NetworkLaw& law, View<const double> x, View<const double> gram, std::uint64_t sample,
                  const Monitor& monitor)
        : backend_(backend),
          formula_(formula),
          law_(law),
          x_(x),
          monitor_(monitor),
          n_(x.rows),
          each_(loss::factor_rank(law.loss, law.widths.back(), true)) {
        neurons_.seed = law.seed;
        neurons_.samples = n_;
        neurons_.rows = each_;
        neurons_.tile = law.tile;
        neurons_.inputs = x;
        const std::size_t depth = law.widths.size();
        for (std::size_t l = 0; l < depth; ++l) {
            NeuronLayer layer;
            layer.width = law.widths[l];
            layer.skip = law.skips[l];
            layer.forward_stream = first_stream + 2 * (sample * depth + l);
            layer.backward_stream = layer.forward_stream + 1;
            neurons_.layers.push_back(layer);
            if (l + 1 < depth) total_ += 2.0 * double(layer.width);
            if (law.orthogonal) total_ += (l > 0 ? 2.0 : 1.0) * double(longer(index(l)));
        }
        grams_.push_back(lower(gram));
    }

    // The lower triangle of k (n r, n r), ordered (sample, row), and the outputs (n, k) of the network.
    void draw(View<double> k, View<double> outputs) {
        for (index l = 0; l < hidden(); ++l) forward(l);
        read_out(outputs);
        std::fill_n(k.data, k.rows * k.stride, 0.0);
        add_share(hidden(), k);
        for (index l = hidden() - 1; l >= 0; --l) {
            backward(l);
            add_share(l, k);
        }
    }

   private:
    // Beyond the streams of initialisers.
    static constexpr std::uint64_t first_stream = std::uint64_t{1} << 32;
    // Columns between two reports.
    static constexpr index at_once = index{1} << 15;

    index hidden() const { return index(neurons_.layers.size()) - 1; }
    index rows() const { return n_ * each_; }
    NeuronLayer& layer(index l) { return neurons_.layers[std::size_t(l)]; }
    index fan_in(index l) const { return l == 0 ? x_.cols : law_.widths[std::size_t(l - 1)]; }
    index longer(index l) const { return std::max(fan_in(l), law_.widths[std::size_t(l)]); }
    // Of a weight in units of what is drawn: of its entries, or of its rows or columns.
    double scale(index l) const { return std::sqrt(law_.variances[std::size_t(l)] * (law_.orthogonal ? double(longer(l)) : 1.0)); }

    // Lower triangle of a - b b^T.
    static Small less_gram(Small a, const Small& b) {
        for (index i = 0; i < a.rows; ++i)
            for (index j = 0; j <= i; ++j) a(i, j) -= solvers::dot(b, i, b, j);
        return a;
    }

    static Small lower(View<const double> a) {
        Small out(a.cols, a.cols);
        for (index i = 0; i < a.cols; ++i) std::copy_n(a.row(i), i + 1, out.values.data() + i * a.cols);
        return out;
    }

    // L with L L^T = g g^T - known known^T, g as many rows of a stream's random matrix as `known` has, and so many columns.
    Frame whitening(std::uint64_t stream, index columns, const Small& known) {
        Small sums(known.rows, known.rows);
        by_blocks(columns, "drawing frames", [&](index first, index last) {
            if (sums.rows > 0) sum_draws(backend_, law_.seed, stream, law_.tile, first, last, view(sums));
        });
        const Small rest = less_gram(sums, known);
        return full_frame_of(view(rest), view(std::as_const(sums)));
    }

    // A frame of the layer's inputs, and what the layer's pre-activations are mixed by: s C, or g C L^-1.
    void open(index l) {
        const Frame& frame = frames_.emplace_back(frame_of(view(std::as_const(grams_.back())), std::min(n_, fan_in(l))));
        mixes_.push_back(frame.factor);
        if (law_.orthogonal) {
            whitenings_.push_back(whitening(layer(l).forward_stream, longer(l), Small(frame.rank(), 0)));
            mixes_.back() = whitenings_.back().times_inverse(std::move(mixes_.back()));
        }
        for (double& value : mixes_.back().values) value *= scale(l);
        layer(l).mix = view(std::as_const(mixes_.back()));
    }

    template <class Step>
    void by_blocks(index columns, const char* stage, Step&& step) {
        for (index first = 0; first < columns; first += at_once) {
            const index last = std::min(columns, first + at_once);
            step(first, last);
            done_ += double(last - first);
            report(monitor_, stage, done_, total_);
        }
    }

    // A^T A and N A of the layer's activations.
    void forward(index l) {
        open(l);
        // As many directions as the derivatives one layer above may span.
        layer(l).fresh = l + 1 == hidden() ? layer(l + 1).width : std::min(rows(), layer(l + 1).width);
        Small sums(n_ + layer(l).fresh, n_);
        if (l + 1 == hidden() && layer(l + 1).skip != 0) head_ = Small(n_, std::min(layer(l).width, layer(l + 1).width));
        by_blocks(layer(l).width, "drawing neurons forward",
                  [&](index first, index last) { sum_forward(backend_, formula_, neurons_, l, first, last, view(sums), view(head_)); });
        grams_.push_back(lower(View<const double>(sums.values.data(), n_, n_)));
        fresh_.emplace_back(layer(l).fresh, n_);
        std::copy_n(sums.values.data() + n_ * n_, layer(l).fresh * n_, fresh_.back().values.data());
    }

    // The outputs, and behind them rows of the loss: B of the last layer.
    void read_out(View<double> outputs) {
        open(hidden());
        const NeuronLayer& last = layer(hidden());
        const index k = last.width, r = last.mix.cols;
        Small g(r, k);
        draw_columns<B>(law_.seed, last.forward_stream, view(g));
        const View<const double> below = hidden() == 0 ? x_ : view(std::as_const(head_));
        for (index i = 0; i < n_; ++i)
            for (index a = 0; a < k; ++a) {
                double value = last.skip != 0 && a < below.cols ? last.skip * below.row(i)[a] : 0.0;
                for (index s = 0; s < r; ++s) value += last.mix.row(i)[s] * g(s, a);
                outputs.row(i)[a] = value;
            }
        top_ = Small(rows(), k);
        std::vector<double> kept(static_cast<std::size_t>(k));
        for (index i = 0; i < n_; ++i) {
            loss::prepare(law_.loss, outputs.row(i), k, kept.data());
            loss::factor_rows(law_.loss, loss::facts(law_.loss).kept == loss::Kept::nothing ? nullptr : kept.data(), k, true, law_.scale,
                              top_.values.data() + i * each_ * k);
        }
        neurons_.top = view(std::as_const(top_));
        rows_gram_ = Small(rows(), rows());
        for (index i = 0; i < rows(); ++i)
            for (index j = 0; j <= i; ++j) rows_gram_(i, j) = solvers::dot(top_, i, top_, j);
        through_ = Small(rows(), r);
        for (index i = 0; i < rows(); ++i)
            for (index s = 0; s < r; ++s) through_(i, s) = solvers::dot(top_, i, g, s);
    }

    // E of layer l + 1.
    Small unseen(index l) const {
        const index most = neurons_.at(l).fresh;  // no more were drawn, nor has B more rows or columns
        if (!law_.orthogonal) return l + 1 == hidden() ? top_ : frame_of(view(rows_gram_), most).factor;  // top: U = I
        const Small rest = less_gram(rows_gram_, through_);
        const index left = longer(l + 1) - through_.cols;
        return frame_of(view(rest), std::min(most, left), view(rows_gram_)).factor;
    }

    // B B^T and B G of layer l, from those one layer above.
    void backward(index l) {
        // s (B G - E (N Q)) P in front of a, s E in front of h; N Q = (N A) P^T.
        const Frame& frame = frames_[std::size_t(l + 1)];
        if (law_.orthogonal) through_ = whitenings_[std::size_t(l + 1)].times_inverse_transposed(through_, rows());  // B F for B G
        Small span = unseen(l);
        const index q = span.cols;
        const Small along = frame.times_inverse_transposed(fresh_[std::size_t(l)], q);
        if (law_.orthogonal) span = whitening(layer(l).backward_stream, longer(l + 1), along).times_inverse(std::move(span));
        Small known = product(span, along);
        for (std::size_t at = 0; at < known.values.size(); ++at) known.values[at] = through_.values[at] - known.values[at];
        known = frame.times_inverse(std::move(known));
        Small behind(rows(), n_ + q);
        const double s = scale(l + 1);
        for (index i = 0; i < rows(); ++i) {
            for (index j = 0; j < n_; ++j) behind(i, j) = s * known(i, j);
            for (index j = 0; j < q; ++j) behind(i, n_ + j) = s * span(i, j);
        }
        behinds_.push_back(std::move(behind));
        layer(l).behind = view(std::as_const(behinds_.back()));
        layer(l).fresh = q;
        const index through = l > 0 ? layer(l).mix.cols : 0;
        Small sums(rows(), rows() + through);
        by_blocks(layer(l).width, "drawing neurons backward",
                  [&](index first, index last) { sum_backward(backend_, formula_, neurons_, l, first, last, view(sums)); });
        through_ = Small(rows(), through);
        for (index i = 0; i < rows(); ++i) {
            std::copy_n(sums.values.data() + i * sums.cols, i + 1, rows_gram_.values.data() + i * rows());
            std::copy_n(sums.values.data() + i * sums.cols + rows(), through, through_.values.data() + i * through);
        }
    }

    // k += (A^T A + bias) o B B^T, A the inputs of layer l, each entry for all rows of two samples.
    void add_share(index l, View<double> k) const {
        const Small& gram = grams_[std::size_t(l)];
        for (index i = 0; i < rows(); ++i)
            for (index sample = 0; sample <= i / each_; ++sample) {
                const double weight = gram(i / each_, sample) + (law_.bias ? 1 : 0);
                for (index j = sample * each_; j < std::min(i + 1, (sample + 1) * each_); ++j) k.row(i)[j] += weight * rows_gram_(i, j);
            }
    }

    B& backend_;
    F formula_;
    const NetworkLaw& law_;
    View<const double> x_;
    const Monitor& monitor_;
    index n_;
    index each_;  // rows of the loss a sample
    Neurons neurons_;
    double done_ = 0, total_ = 0;
    // Of each layer: A^T A of its inputs (lower), their frame, L, s C; N A of its activations; [s (B G - E N Q) P, s E] from the top.
    std::vector<Small> grams_;
    std::vector<Frame> frames_, whitenings_;
    std::vector<Small> mixes_, fresh_, behinds_;
    Small head_, top_;
    // Of the layer reached on the way back: B B^T (lower) and B G.
    Small rows_gram_, through_;
};

}  // namespace gnfast
