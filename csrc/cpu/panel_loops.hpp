// The inner loops of panels.hpp, for registers of any width: inlined into one function for each instruction set.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/panels.hpp"

#define GNFAST_INLINE static inline __attribute__((always_inline))

namespace gnfast::cpu::panels {

template <class T, int Bytes>
struct PackOf {
    typedef T type __attribute__((vector_size(Bytes), aligned(sizeof(T)), may_alias));
};
template <class T, int Bytes>
using Pack = typename PackOf<T, Bytes>::type;
template <class T, int Bytes>
constexpr index lanes = Bytes / sizeof(T);

template <class T, int Bytes>
GNFAST_INLINE Pack<T, Bytes> load(const T* p) {
    return *reinterpret_cast<const Pack<T, Bytes>*>(p);
}
template <class T, int Bytes>
GNFAST_INLINE void store(T* p, const Pack<T, Bytes>& v) {
    *reinterpret_cast<Pack<T, Bytes>*>(p) = v;
}

constexpr int tile_rows = 6;  // 12 accumulators, 2 operands and a broadcast: 15 of 16 registers

// c_i (+)= sum_k left[i, k] panel[k, :] for R rows; 2 R width flops a step for R + 2 loads.
template <class T, int Bytes, int R>
GNFAST_INLINE void tile(index steps, const T* left, const T* panel, bool accumulate, T* const* c) {
    constexpr index half = lanes<T, Bytes>;
    Pack<T, Bytes> sum[R][2];
    for (int i = 0; i < R; ++i)
        for (int h = 0; h < 2; ++h) sum[i][h] = accumulate ? load<T, Bytes>(c[i] + h * half) : Pack<T, Bytes>{};
#pragma GCC unroll 4
    for (index k = 0; k < steps; ++k) {
        const Pack<T, Bytes> b0 = load<T, Bytes>(panel + k * 2 * half), b1 = load<T, Bytes>(panel + k * 2 * half + half);
        for (int i = 0; i < R; ++i) {
            const T x = left[i * left_stride + k];
            sum[i][0] += b0 * x;
            sum[i][1] += b1 * x;
        }
    }
    for (int i = 0; i < R; ++i)
        for (int h = 0; h < 2; ++h) store<T, Bytes>(c[i] + h * half, sum[i][h]);
}

template <class T>
constexpr index line = 64 / sizeof(T);  // numbers in a line of the cache

// Memory that will be read or written soon comes nearer while the tile before it is multiplied; any address will do.
template <class T>
GNFAST_INLINE void fetch(const T* from, const T* to) {
    for (; from < to; from += line<T>) __builtin_prefetch(from, 0, 2);
}

template <class T, int Bytes, int R, class Target, class Ahead>
GNFAST_INLINE void tile_at(index i, index steps, const T* left, const T* panel, bool accumulate, Target&& c, Ahead&& ahead) {
    T* target[R];
    for (int q = 0; q < R; ++q) {
        target[q] = c(i + q);
        ahead(i + q);
    }
    tile<T, Bytes, R>(steps, left + i * left_stride, panel, accumulate, target);
}

// The same for any number of rows, in tiles of nearly equal height: one row alone has too few sums to fill the pipeline and takes as
// long as four of a full tile. c(i) is where row i goes, ahead(i) fetches what will be needed of row i later. (No lambda for the
// cases: the compiler would not inline it, and so compile it for the oldest processor.)
template <class T, int Bytes, class Target, class Ahead>
GNFAST_INLINE void sweep(index rows, index steps, const T* left, const T* panel, bool accumulate, Target&& c, Ahead&& ahead) {
    index i = 0;
    for (index tiles = ceil_div(rows, tile_rows); tiles > 0; --tiles) {
        const index height = ceil_div(rows - i, tiles);
        if (height == 6)
            tile_at<T, Bytes, 6>(i, steps, left, panel, accumulate, c, ahead);
        else if (height == 5)
            tile_at<T, Bytes, 5>(i, steps, left, panel, accumulate, c, ahead);
        else if (height == 4)
            tile_at<T, Bytes, 4>(i, steps, left, panel, accumulate, c, ahead);
        else if (height == 3)
            tile_at<T, Bytes, 3>(i, steps, left, panel, accumulate, c, ahead);
        else if (height == 2)
            tile_at<T, Bytes, 2>(i, steps, left, panel, accumulate, c, ahead);
        else
            tile_at<T, Bytes, 1>(i, steps, left, panel, accumulate, c, ahead);
        i += height;
    }
}

// A matrix of panels: panel (i, j) lies at data + i * row + j * column.
template <class T>
struct Grid {
    T* data;
    index row, column;
    T* at(index i, index j) const { return data + i * row + j * column; }
};

// out(a, j) (+)= sum_q b(q, a) x(q, j), lane by lane, for A by J panels, one register's half of each: A J steps for A + J loads.
template <class T, int Bytes, int A, int J>
GNFAST_INLINE void contract_tile(index count, Grid<const T> b, Grid<const T> x, Grid<T> out, bool accumulate) {
    Pack<T, Bytes> sum[A][J];
    for (int a = 0; a < A; ++a)
        for (int j = 0; j < J; ++j) sum[a][j] = accumulate ? load<T, Bytes>(out.at(a, j)) : Pack<T, Bytes>{};
    for (index q = 0; q < count; ++q) {
        Pack<T, Bytes> left[A];
        for (int a = 0; a < A; ++a) left[a] = load<T, Bytes>(b.at(q, a));
        for (int j = 0; j < J; ++j) {
            const Pack<T, Bytes> right = load<T, Bytes>(x.at(q, j));
            for (int a = 0; a < A; ++a) sum[a][j] += left[a] * right;
        }
    }
    for (int a = 0; a < A; ++a)
        for (int j = 0; j < J; ++j) store<T, Bytes>(out.at(a, j), sum[a][j]);
}

template <class T, int Bytes, int A>
GNFAST_INLINE void contract_row(index count, index columns, Grid<const T> b, Grid<const T> x, Grid<T> out, bool accumulate) {
    for (index half = 0; half < 2 * lanes<T, Bytes>; half += lanes<T, Bytes>) {
        const auto tile_at = [&](auto width, index j) {
            contract_tile<T, Bytes, A, decltype(width)::value>(count, {b.data + half, b.row, b.column},
                                                               {x.at(0, j) + half, x.row, x.column},
                                                               {out.at(0, j) + half, out.row, out.column}, accumulate);
        };
        index j = 0;
        for (; j + 4 <= columns; j += 4) tile_at(std::integral_constant<int, 4>(), j);
        for (; j < columns; ++j) tile_at(std::integral_constant<int, 1>(), j);
    }
}

// The same for any number of rows a and columns j of panels.
template <class T, int Bytes>
GNFAST_INLINE void contract(index count, index rows, index columns, Grid<const T> b, Grid<const T> x, Grid<T> out, bool accumulate) {
    index a = 0;
    for (; a + 3 <= rows; a += 3)
        contract_row<T, Bytes, 3>(count, columns, {b.at(0, a), b.row, b.column}, x, {out.at(a, 0), out.row, out.column}, accumulate);
    for (; a < rows; ++a)
        contract_row<T, Bytes, 1>(count, columns, {b.at(0, a), b.row, b.column}, x, {out.at(a, 0), out.row, out.column}, accumulate);
}

template <class T, int Bytes>
GNFAST_INLINE void project_all(const Layer<T>& layer, const Block<const T>& block, T* u, T* work) {
    constexpr index width = 2 * lanes<T, Bytes>, panels_at_once = sample_block / width;
    const index rows = block.rows(), vectors = block.vectors, r = layer.r, panels = ceil_div(layer.samples, width);
    T *const left = work, *const tiles = work + block_rows<T> * left_stride;  // tiles (panel, output, vector, width)
    for (index p0 = 0; p0 < panels; p0 += panels_at_once) {
        const index np = std::min(panels_at_once, panels - p0);
        if (block.bias)
            for (index p = 0; p < np; ++p)
                for (index row = 0; row < rows; ++row) std::fill_n(tiles + (p * rows + row) * width, width, block.bias_of(row));
        const index slices = ceil_div(layer.fan_in, inner);
        for (index slice = 0; slice < slices; ++slice) {
            const index k0 = layer.fan_in * slice / slices, k1 = layer.fan_in * (slice + 1) / slices;
            const bool last = slice + 1 == slices;
            for (index row = 0; row < rows; ++row) std::copy_n(block.weight_row(row, layer.fan_in) + k0, k1 - k0, left + row * left_stride);
            const index next = last ? block.count * layer.fan_in : k1;  // what the next slice, or block, will copy
            for (index p = 0; p < np; ++p) {
                const T* const b = layer.rows + ((p0 + p) * layer.fan_out + block.first) * r * width;
                const index size = block.count * r * width;
                sweep<T, Bytes>(
                    rows, k1 - k0, left, layer.by_sample + ((p0 + p) * layer.fan_in + k0) * width, slice > 0 || block.bias,
                    [&](index row) { return tiles + (p * rows + row) * width; },
                    [&](index row) {
                        fetch(block.weight_row(row, layer.fan_in) + next + inner * p / np,
                              block.weight_row(row, layer.fan_in) + next + inner * (p + 1) / np);
                        if (last) fetch(b + size * row / rows, b + size * (row + 1) / rows);
                    });
                if (!last) continue;
                contract<T, Bytes>(block.count, r, vectors, {b, r * width, width}, {tiles + p * rows * width, vectors * width, width},
                                   {u + (p0 + p) * vectors * r * width, width, r * width}, true);
            }
        }
    }
}

template <class T, int Bytes>
GNFAST_INLINE void gradient_all(const Layer<T>& layer, const T* u, const Block<T>& block, T* work) {
    constexpr index width = 2 * lanes<T, Bytes>, slice_panels = inner / width, slices_at_once = sample_block / inner;
    const index rows = block.rows(), vectors = block.vectors, r = layer.r;
    const index panels = ceil_div(layer.samples, width), column_panels = ceil_div(layer.fan_in, width);
    for (index p0 = 0; p0 < panels; p0 += slice_panels * slices_at_once) {
        const index np = std::min(slice_panels * slices_at_once, panels - p0);
        for (index p = 0; p < np; ++p) {  // left (slice, output, vector, sample)
            T* const left = work + p / slice_panels * rows * left_stride + p % slice_panels * width;
            const T* const mine = u + (p0 + p) * vectors * r * width;
            contract<T, Bytes>(r, block.count, vectors,
                               {layer.rows + ((p0 + p) * layer.fan_out + block.first) * r * width, width, r * width},
                               {mine, width, r * width}, {left, vectors * left_stride, left_stride}, false);
        }
        const index begin = p0 * width, samples = std::min(layer.samples - begin, np * width);
        if (block.bias)
            for (index row = 0; row < rows; ++row) {
                T total = p0 > 0 ? block.bias_of(row) : T(0);
                for (index i = 0; i < samples; ++i) total += work[(i / inner * rows + row) * left_stride + i % inner];
                block.bias_of(row) = total;
            }
        for (index column = 0; column < column_panels; ++column) {
            const index q0 = column * width, filled = std::min(width, layer.fan_in - q0);
            T* const edge = work + slices_at_once * block_rows<T> * left_stride;  // a panel that reaches beyond the row
            const auto target = [&](index row) { return block.weight_row(row, layer.fan_in) + q0; };
            if (filled < width && p0 > 0)
                for (index row = 0; row < rows; ++row) std::copy_n(target(row), filled, edge + row * width);
            for (index i = 0; i < samples; i += inner)
                sweep<T, Bytes>(
                    rows, std::min(inner, samples - i), work + i / inner * rows * left_stride,
                    layer.by_column + (column * layer.samples + begin + i) * width, p0 > 0 || i > 0,
                    [&](index row) { return filled < width ? edge + row * width : target(row); },
                    [&](index row) { fetch(target(row) + width, target(row) + width + 1); });
            if (filled < width)
                for (index row = 0; row < rows; ++row) std::copy_n(edge + row * width, filled, target(row));
        }
    }
}

template <class T, int Bytes>
GNFAST_INLINE void multiply_packed_all(View<const T> a, const T* packed, index first, index last, View<T> out, T* work) {
    constexpr index width = 2 * lanes<T, Bytes>;
    const index panels = ceil_div(out.cols, width), slices = ceil_div(a.cols, inner);
    T *const left = work, *const edge = work + block_rows<T> * left_stride;
    for (index i = 0; i < a.rows; i += block_rows<T>) {
        const index rows = std::min(block_rows<T>, a.rows - i);
        for (index slice = 0; slice < slices; ++slice) {
            const index k0 = a.cols * slice / slices, steps = a.cols * (slice + 1) / slices - k0;
            for (index row = 0; row < rows; ++row) std::copy_n(a.row(i + row) + k0, steps, left + row * left_stride);
            for (index p = first; p < last; ++p) {
                const T* const panel = packed + panels * width * k0 + p * width * steps;
                const bool full = (p + 1) * width <= out.cols;  // the last panel's sums have their own place until they are whole
                sweep<T, Bytes>(
                    rows, steps, left, panel, slice > 0,
                    [&](index row) { return full ? out.row(i + row) + p * width : edge + row * width; },
                    [&](index row) {
                        fetch(panel + width * steps * (rows + row) / rows, panel + width * steps * (rows + row + 1) / rows);
                    });
            }
        }
        if (last * width > out.cols)
            for (index row = 0; row < rows; ++row)
                std::copy_n(edge + row * width, out.cols - (last - 1) * width, out.row(i + row) + (last - 1) * width);
    }
}

}  // namespace gnfast::cpu::panels
