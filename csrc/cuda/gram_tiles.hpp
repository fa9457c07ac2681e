// The lower triangle of a Gram matrix by tiles: both factors of a layer's share by cuBLAS, multiplied into the result by one kernel.
#pragma once

#include <algorithm>
#include <span>

#include "core/backend.hpp"
#include "core/triangle.hpp"
#include "cuda/buffer.hpp"
#include "cuda/calls.hpp"
#include "cuda/kernels.hpp"
#include "cuda/runtime.hpp"

namespace gnfast::cuda::gram {

// Rows of K in a tile: a product of so many rows fills a GPU, and of a square on the diagonal only half is lost above it.
constexpr index tile_rows = 2048;
// Tiles beside each other that are made at once; 64 MiB of them in float32.
constexpr index tiles_across = 4;

inline index tile_samples(index n, index r) { return std::max<index>(1, std::min(n, tile_rows / r)); }

// Tiles of `per` samples, `across` of them wide, and the work space that all of them share.
template <class T>
class Tiles {
   public:
    Tiles(std::span<const GramTerm<T>> terms, index r, index n)
        : r_(r), per_(tile_samples(n, r)), width_(std::min(n, per_ * tiles_across)), inputs_(per_ * width_) {
        index products = terms.size() > 1 ? per_ * r * width_ * r : 0, left = 0;
        for (const GramTerm<T>& term : terms) {
            if (!term.factor.data) continue;
            products = std::max(products, term.derivative.data ? pairs() * per_ * width_ : r * r);
            if (term.derivative.data) left = std::max(left, pairs_at_once() * per_ * term.factor.cols);
        }
        products_ = Buffer<T>(products);
        left_ = Buffer<T>(left);
    }

    index height() const { return per_; }
    index width() const { return width_; }

    // out (ni r, nj r) += the layer's share for the samples from i and from j on, or = where it is the first.
    void add(const GramTerm<T>& term, index i, index ni, index j, index nj, bool first, View<T> out) {
        const View<T> inputs(inputs_.data(), ni, nj);
        call::gemm(Op::none, Op::transpose, T(1), term.inputs.row_range(i, ni), term.inputs.row_range(j, nj), T(0), inputs);
        const T bias = term.bias ? T(1) : T(0);
        const bool diagonal = i == j;
        if (!term.factor.data) {
            // The first layer's Gram of rows is written where the sum will stand.
            const View<T> rows = first ? out : View<T>(products_.data(), ni * r_, nj * r_);
            call::gemm(Op::none, Op::transpose, T(1), term.rows.row_range(i * r_, ni * r_), term.rows.row_range(j * r_, nj * r_), T(0),
                       rows);
            kernels::hadamard(current_stream(), View<const T>(inputs), bias, r_, View<const T>(rows), out, diagonal, first);
        } else if (!term.derivative.data) {
            const View<T> weights(products_.data(), r_, r_);
            call::gemm(Op::none, Op::transpose, T(1), term.factor, term.factor, T(0), weights);
            kernels::hadamard_shared(current_stream(), View<const T>(inputs), bias, r_, View<const T>(weights), out, diagonal, first);
        } else {
            const View<T> products(products_.data(), pairs() * ni, nj);
            const View<const T> right = term.derivative.row_range(j, nj);
            for (index pair = 0; pair < pairs(); pair += pairs_at_once()) {
                const index count = std::min(pairs_at_once(), pairs() - pair);
                const View<T> left(left_.data(), count * ni, right.cols);
                kernels::pair_rows(current_stream(), term.factor, term.derivative.row_range(i, ni), pair, left);
                call::gemm(Op::none, Op::transpose, T(1), View<const T>(left), right, T(0), products.row_range(pair * ni, count * ni));
            }
            kernels::hadamard_pairs(current_stream(), View<const T>(inputs), bias, r_, View<const T>(products), out, diagonal, first);
        }
    }

   private:
    // Of rows that share a factor the pairs a <= b are enough: see GramTerm.
    index pairs() const { return triangle::count(r_); }
    // Pairs whose scaled rows are made together: as many rows as a tile has.
    index pairs_at_once() const { return std::min(pairs(), std::max<index>(1, tile_rows / per_)); }

    index r_, per_, width_;
    Buffer<T> inputs_, products_, left_;
};

// K[(i,c),(j,e)] = sum_l (<a_i, a_j> + bias) <b_ic, b_je> for the samples i in [first, last), j <= i. Per tile of h x w rows of K and layer
// 2 h w fan_out flops by cuBLAS (half of that where the rows share a factor), and a kernel that reads the tile and K and writes K:
// 12 h w bytes in float32, 8 for the first layer. With 15 flops in the time of a byte that is a tenth of the product at a width of 1024.
template <class T>
void lower(std::span<const GramTerm<T>> terms, index r, View<T> out, index first, index last) {
    Tiles<T> tiles(terms, r, out.rows / r);
    for (index i = first; i < last; i += tiles.height()) {
        const index ni = std::min(tiles.height(), last - i);
        const auto fill = [&](index j, index nj) {
            const View<T> target = out.block(i * r, ni * r, j * r, nj * r);
            for (std::size_t l = 0; l < terms.size(); ++l) tiles.add(terms[l], i, ni, j, nj, l == 0, target);
        };
        for (index j = 0; j < i; j += tiles.width()) fill(j, std::min(tiles.width(), i - j));
        fill(i, ni);
    }
}

}  // namespace gnfast::cuda::gram
