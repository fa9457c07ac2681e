// Stored symmetric matrices: products from a triangle, how symmetric one is, Cholesky factorisation and its solves, on the threads.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "cpu/buffer.hpp"
#include "cpu/calls.hpp"
#include "cpu/kernels.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu::symmetric {

// Of 128, 256 and 512 as the widest panel for 5,000 unknowns: 31, 34 and 39 GF/s where a plain product had 40.
constexpr index widest_panel = 512, least_panel = 128, least_tile = 256;
constexpr index symm_tile = 256, product_tile = 256, solve_panel = 128, few = 16;
// Four rows of 512 numbers fill half of a first-level cache; 64 rows use each part of the vectors while it is near.
constexpr index thin_rows = 64, thin_cols = 512;

// out = the sum of the blocks of out.rows rows that lie below one another.
template <class T>
void sum_partial(View<const T> partial, View<T> out) {
    parallel_ranges(out.cols, 4096, [&](index first, index count) {
        for (index row = 0; row < out.rows; ++row) {
            T* z = out.row(row) + first;
            std::copy_n(partial.row(row) + first, count, z);
            for (index more = row + out.rows; more < partial.rows; more += out.rows)
                for (index q = 0; q < count; ++q) z[q] += partial.row(more)[first + q];
        }
    });
}

// As multiply for few vectors, which BLAS would multiply at the rate of copying tiles into its own layout: each number is
// loaded once for both sides. Measured with 4 and 8 vectors of 6,000: see docs/decisions/0009.
template <class T>
void multiply_thin(View<const T> lower, View<const T> v, View<T> out) {
    const index size = lower.rows, s = v.rows, panels = ceil_div(size, thin_rows);
    const index threads = std::min<index>(num_threads(), panels);
    Buffer<T> partial((threads + 1) * s * size);
    const View<T> own(partial.data() + threads * s * size, s, size);  // v with the stride of the results
    for (index row = 0; row < s; ++row) std::copy_n(v.row(row), size, own.row(row));
    parallel_for(threads, [&](index t) {
        const View<T> mine(partial.data() + t * s * size, s, size);
        std::fill_n(mine.data, s * size, T(0));
        for (index panel = t; panel < panels; panel += threads) {
            const index i = panel * thin_rows, ni = std::min(thin_rows, size - i);
            for (index j = 0; j < i; j += thin_cols) {
                const index nj = std::min(thin_cols, i - j);
                kernels::symmetric_tile(lower.row(i) + j, lower.stride, ni, nj, own.data + j, own.data + i, mine.data + i, mine.data + j,
                                        size, s);
            }
            call::symm(lower.block(i, ni, i, ni), v.block(0, s, i, ni), mine.block(0, s, i, ni));
        }
    });
    sum_partial(View<const T>(partial.data(), threads * s, size), out);
}

// out = v K for symmetric K given by its lower triangle: each tile is read once and used on both sides, into one
// private result per thread; 2 N^2 s flops for s vectors, N^2 / 2 numbers read.
template <class T>
void multiply(View<const T> lower, View<const T> v, View<T> out) {
    if (v.rows <= few && lower.rows > symm_tile) return multiply_thin(lower, v, out);
    const index size = lower.rows, s = v.rows, tiles = ceil_div(size, symm_tile);
    const index threads = std::min<index>(num_threads(), tiles);
    Buffer<T> partial(threads * s * size);
    parallel_for(threads, [&](index t) {
        const View<T> mine(partial.data() + t * s * size, s, size);
        std::fill_n(mine.data, s * size, T(0));
        for (index tile_row = 0, at = 0; tile_row < tiles; ++tile_row)
            for (index tile_col = 0; tile_col <= tile_row; ++tile_col, ++at) {
                if (at % threads != t) continue;
                const index i = tile_row * symm_tile, j = tile_col * symm_tile;
                const index ni = std::min(symm_tile, size - i), nj = std::min(symm_tile, size - j);
                const View<const T> tile = lower.block(i, ni, j, nj);
                if (tile_row == tile_col) {
                    call::symm(tile, v.block(0, s, i, ni), mine.block(0, s, i, ni));
                    continue;
                }
                call::gemm(Op::none, Op::transpose, T(1), v.block(0, s, j, nj), tile, T(1), mine.block(0, s, i, ni));
                call::gemm(Op::none, Op::none, T(1), v.block(0, s, i, ni), tile, T(1), mine.block(0, s, j, nj));
            }
    });
    sum_partial(View<const T>(partial.data(), threads * s, size), out);
}

// Task -> (row, column) of a lower triangle of tiles, longest rows first.
inline std::pair<index, index> tile_of(index tiles, index task) {
    index row = tiles - 1, col = task;
    while (col > row) col -= row-- + 1;
    return {row, col};
}

// out = a a^T by tiles of the lower triangle, each copied onto the upper one while it is in cache; rows^2 cols flops.
template <class T>
void product(View<const T> a, View<T> out) {
    const index size = out.rows, tiles = ceil_div(size, product_tile), height = ceil_div(size, std::max<index>(1, tiles));
    parallel_for(tiles * (tiles + 1) / 2, [&](index task) {
        const auto [row, col] = tile_of(tiles, task);
        const index i = row * height, j = col * height, ni = std::min(height, size - i), nj = std::min(height, size - j);
        const View<T> target = out.block(i, ni, j, nj);
        if (row == col)
            call::syrk(T(1), a.row_range(i, ni), T(0), target);
        else
            call::gemm(Op::none, Op::transpose, T(1), a.row_range(i, ni), a.row_range(j, nj), T(0), target);
        for (index p = 0; p < ni; ++p)
            for (index q = 0; q < (row == col ? p : nj); ++q) out.row(j + q)[i + p] = target.row(p)[q];
    });
}

// How far a square matrix is from symmetric; each entry is read once.
template <class T>
Asymmetry asymmetry(View<const T> a) {
    const index tile = 32, tiles = ceil_div(a.rows, tile);
    std::vector<kernels::Extremes<T>> found(static_cast<std::size_t>(tiles));
    parallel_for(tiles, [&](index row) {
        const index i = row * tile, ni = std::min(tile, a.rows - i);
        for (index j = 0; j <= i; j += tile)
            kernels::asymmetry(a.row(i) + j, a.row(j) + i, a.stride, ni, std::min(tile, a.rows - j), found[static_cast<std::size_t>(row)]);
    });
    Asymmetry all{0, 0, true};
    for (const kernels::Extremes<T>& one : found) {
        all.scale = std::max(all.scale, double(one.scale));
        all.difference = std::max(all.difference, double(one.difference));
        all.finite = all.finite && one.zero == T(0);
    }
    return all;
}

// Right-looking: factor the diagonal block, solve the panel below it, update the trailing lower triangle by tiles. A wide
// panel reads and writes the trailing triangle, which no cache holds, once for many flops; the diagonal block is done in
// narrower panels, so that other threads do not wait for it.
template <class T>
index cholesky_by_panels(View<T> a, index panel_width) {
    const index size = a.rows;
    if (size <= least_panel) return call::potrf(a);
    while (panel_width > least_panel && size < 4 * panel_width) panel_width /= 2;
    const index tile = std::max(panel_width, least_tile);
    for (index at = 0; at < size; at += panel_width) {
        const index width = std::min(panel_width, size - at), below = size - at - width;
        const View<T> diagonal = a.block(at, width, at, width);
        const index failed = cholesky_by_panels(diagonal, panel_width / 2);
        if (failed > 0) return at + failed;
        if (below == 0) break;
        const View<T> panel = a.block(at + width, below, at, width);
        parallel_ranges(below, 64, [&](index first, index count) { call::trsm(Op::transpose, diagonal, panel.row_range(first, count)); });
        const index tiles = ceil_div(below, tile);
        parallel_for(tiles * (tiles + 1) / 2, [&](index task) {
            const auto [row, col] = tile_of(tiles, task);
            const index i = row * tile, j = col * tile;
            const index ni = std::min(tile, below - i), nj = std::min(tile, below - j);
            const View<T> target = a.block(at + width + i, ni, at + width + j, nj);
            if (row == col)
                call::syrk(T(-1), panel.row_range(i, ni), T(1), target);
            else
                call::gemm(Op::none, Op::transpose, T(-1), View<const T>(panel.row_range(i, ni)), View<const T>(panel.row_range(j, nj)),
                           T(1), target);
        });
    }
    return 0;
}

// size^3 / 3 flops, nearly all in products of tiles. 0, or the failing pivot from 1.
template <class T>
index cholesky(View<T> a) {
    return cholesky_by_panels(a, widest_panel);
}

// Each row x of rhs becomes (L L^T)^-1 x; 2 size^2 flops a vector. Many vectors are dealt out to the threads; few would
// have each thread read all of L, so that there the panels are dealt out instead and L is read once for each solve.
template <class T>
void cholesky_solve(View<const T> lower, View<T> rhs) {
    if (rhs.rows >= 16 * num_threads() || lower.rows <= 2 * solve_panel)
        return parallel_ranges(rhs.rows, 1, [&](index first, index count) {
            call::trsm(Op::transpose, lower, rhs.row_range(first, count));
            call::trsm(Op::none, lower, rhs.row_range(first, count));
        });
    const index size = lower.rows, s = rhs.rows, panels = ceil_div(size, solve_panel);
    const auto step = [&](index panel, Op op) {
        const index at = panel * solve_panel, width = std::min(solve_panel, size - at);
        const View<T> x = rhs.block(0, s, at, width);
        {
            const SingleThreadedBlas guard;
            call::trsm(op, lower.block(at, width, at, width), x);
        }
        // L y = x moves on to the rows below the panel, L^T y = x to the columns left of it.
        const index base = op == Op::transpose ? at + width : 0, rest = op == Op::transpose ? size - base : at;
        parallel_ranges(rest, 512, [&](index first, index count) {
            const View<T> target = rhs.block(0, s, base + first, count);
            if (op == Op::transpose)
                call::gemm(Op::none, Op::transpose, T(-1), View<const T>(x), lower.block(base + first, count, at, width), T(1), target);
            else
                call::gemm(Op::none, Op::none, T(-1), View<const T>(x), lower.block(at, width, first, count), T(1), target);
        });
    };
    for (index panel = 0; panel < panels; ++panel) step(panel, Op::transpose);
    for (index panel = panels; panel-- > 0;) step(panel, Op::none);
}

}  // namespace gnfast::cpu::symmetric
