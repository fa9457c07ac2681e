// The Gram matrix by tiles of its lower triangle, both factors of a layer's share multiplied while a tile is in cache.
#pragma once

#include <omp.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "core/backend.hpp"
#include "core/triangle.hpp"
#include "cpu/buffer.hpp"
#include "cpu/calls.hpp"
#include "cpu/kernels.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu::gram {

// Rows of the scaled copies that are multiplied at a time: long enough for GEMM.
constexpr index rows_at_once = 256;

// Out of which the products of rows (i, c) = factor[c] o derivative[i] are made: <(i, a), (j, b)> is symmetric in a and b, so that the
// pairs a <= b are enough, r (r + 1) / 2 instead of r^2 products of samples.
template <class T>
struct Pairs {
    std::vector<triangle::Pair> outputs;
    Buffer<T> weights;  // (pairs, fan_out): factor[a] o factor[b]; without derivatives (pairs, 1): <factor[a], factor[b]>

    Pairs(const GramTerm<T>& term, index r) {
        if (!term.factor.data) return;
        for (index p = 0; p < triangle::count(r); ++p) outputs.push_back(triangle::pair(p, r));
        const index m = term.factor.cols, count = index(outputs.size());
        weights = Buffer<T>(count * (term.derivative.data ? m : 1));
        for (index p = 0; p < count; ++p) {
            const T* const x = term.factor.row(outputs[std::size_t(p)].a);
            const T* const y = term.factor.row(outputs[std::size_t(p)].b);
            if (term.derivative.data)
                for (index q = 0; q < m; ++q) weights.data()[p * m + q] = x[q] * y[q];
            else
                weights.data()[p] = std::inner_product(x, x + m, y, T(0));
        }
    }

    index at_once(index samples) const { return std::min(index(outputs.size()), std::max<index>(1, rows_at_once / samples)); }
    // Numbers of work space for tiles of up to so many samples a side.
    index scratch(const GramTerm<T>& term, index samples) const {
        return term.derivative.data ? std::max(rows_at_once, samples) * (term.factor.cols + samples) : 0;
    }

    // out ((i, a), (j, b)) for samples from i and from j on.
    void multiply(const GramTerm<T>& term, index r, index i, index ni, index j, index nj, View<T> out, T* work) const {
        const index count = index(outputs.size()), m = term.factor.cols, step = term.derivative.data ? at_once(ni) : count;
        for (index first = 0; first < count; first += step) {
            const index pairs = std::min(step, count - first);
            const View<T> left(work, pairs * ni, m), product(work + step * ni * m, pairs * ni, nj);
            if (term.derivative.data) {
                for (index p = 0; p < pairs; ++p)
                    for (index x = 0; x < ni; ++x) {
                        std::copy_n(term.derivative.row(i + x), m, left.row(p * ni + x));
                        kernels::multiply(weights.data() + (first + p) * m, left.row(p * ni + x), m);
                    }
                call::gemm(Op::none, Op::transpose, T(1), View<const T>(left), term.derivative.row_range(j, nj), T(0), product);
            }
            for (index x = 0; x < ni; ++x)
                for (index p = 0; p < pairs; ++p) {
                    const auto [a, b] = outputs[std::size_t(first + p)];
                    T *const one = out.row(x * r + a) + b, *const other = out.row(x * r + b) + a;
                    if (term.derivative.data)
                        for (index y = 0; y < nj; ++y) one[y * r] = other[y * r] = product.row(p * ni + x)[y];
                    else
                        for (index y = 0; y < nj; ++y) one[y * r] = other[y * r] = weights.data()[p];
                }
        }
    }
};

// out = a b^T, of a tile on the diagonal (b is a) the lower triangle.
template <class T>
void multiply(View<const T> a, View<const T> b, bool same, View<T> out) {
    if (same)
        call::syrk(T(1), a, T(0), out);
    else
        call::gemm(Op::none, Op::transpose, T(1), a, b, T(0), out);
}

// The rows of samples [first, last) of the lower triangle of out (n r, n r), by tiles of `per` samples.
template <class T>
void lower(std::span<const GramTerm<T>> terms, index r, View<T> out, index first, index last, index per) {
    const index n = out.rows / r;
    struct Tile {
        index i, j;
    };
    std::vector<Tile> tiles;
    for (index i = first; i < last; i += per)
        for (index j = 0; j <= i; j += per) tiles.push_back({i, j});
    std::vector<Pairs<T>> pairs;
    index more = 0;
    for (const GramTerm<T>& term : terms) {
        pairs.emplace_back(term, r);
        more = std::max(more, pairs.back().scratch(term, per));
    }
    const index height = per * r;
    std::vector<Buffer<T>> scratch(static_cast<std::size_t>(num_threads()));
    parallel_for(static_cast<index>(tiles.size()), [&](index at) {
        const auto [i, j] = tiles[static_cast<std::size_t>(at)];
        const index ni = std::min(per, last - i), nj = std::min(per, n - j);
        Buffer<T>& mine = scratch[static_cast<std::size_t>(omp_get_thread_num())];
        if (mine.size() == 0) mine = Buffer<T>(height * height + per * per + height + more);
        const View<T> rows_gram(mine.data(), ni * r, nj * r), inputs_gram(mine.data() + height * height, ni, nj);
        T *const spread = mine.data() + height * height + per * per, *const work = spread + height;
        const View<T> target = out.block(i * r, ni * r, j * r, nj * r);
        for (std::size_t l = 0; l < terms.size(); ++l) {
            // The first layer's Gram of rows is written where the sum will stand: nothing to clear, nothing to add.
            const GramTerm<T>& term = terms[l];
            const View<T> product = l == 0 ? target : rows_gram;
            if (term.factor.data)
                pairs[l].multiply(term, r, i, ni, j, nj, product, work);
            else
                multiply(term.rows.row_range(i * r, ni * r), term.rows.row_range(j * r, nj * r), i == j, product);
            multiply(term.inputs.row_range(i, ni), term.inputs.row_range(j, nj), i == j, inputs_gram);
            for (index p = 0; p < ni; ++p) {
                const index samples = i == j ? p + 1 : nj;
                for (index q = 0; q < samples; ++q) std::fill_n(spread + q * r, r, inputs_gram.row(p)[q] + (term.bias ? T(1) : T(0)));
                for (index c = 0; c < r; ++c) {
                    const index row = p * r + c, length = i == j ? row + 1 : samples * r;
                    if (l == 0)
                        kernels::multiply(spread, target.row(row), length);
                    else
                        kernels::multiply_accumulate(spread, rows_gram.row(row), target.row(row), length);
                }
            }
        }
    });
}

}  // namespace gnfast::cpu::gram
