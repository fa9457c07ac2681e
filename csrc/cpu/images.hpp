// Patches of images and pooling on the threads. Each loop writes rows of its own: nothing is added up across threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/windows.hpp"
#include "cpu/kernels.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu::images {

// f(i) for each of `rows` rows that take about `cost` steps each.
template <class F>
void for_rows(index rows, index cost, F&& f) {
    constexpr index least = 16384;  // steps that are worth a thread
    parallel_ranges(rows, std::max<index>(1, least / std::max<index>(1, cost)), [&](index first, index count) {
        for (index i = first; i < first + count; ++i) f(i);
    });
}

// One tap's pixels at all positions of a line.
template <class T>
void gather_line(const T* line, const Axis& x, index tap, bool circular, T* out) {
    const index first = x.first(tap), last = std::max(first, x.last(tap)), shift = tap * x.dilation - x.before;
    if (circular) {
        for (index at = 0; at < first; ++at) out[at] = line[x.pixel(at, tap, true)];
        for (index at = last; at < x.positions; ++at) out[at] = line[x.pixel(at, tap, true)];
    } else {
        std::fill(out, out + first, T(0));
        std::fill(out + last, out + x.positions, T(0));
    }
    if (x.stride == 1)
        std::copy(line + (first + shift), line + (last + shift), out + first);
    else
        for (index at = first; at < last; ++at) out[at] = line[at * x.stride + shift];
}

template <class T>
void scatter_line(const T* in, const Axis& x, index tap, bool circular, T* line) {
    const index first = x.first(tap), last = std::max(first, x.last(tap)), shift = tap * x.dilation - x.before;
    if (circular) {
        for (index at = 0; at < first; ++at) line[x.pixel(at, tap, true)] += in[at];
        for (index at = last; at < x.positions; ++at) line[x.pixel(at, tap, true)] += in[at];
    }
    if (x.stride == 1)
        for (index at = first; at < last; ++at) line[at + shift] += in[at];
    else
        for (index at = first; at < last; ++at) line[at * x.stride + shift] += in[at];
}

// images (m, inputs) -> patches (m patch, positions), zero where the window stands on padding.
template <class T>
void gather_patches(View<const T> images, const Windows& w, View<T> patches) {
    for_rows(images.rows * w.patch(), w.positions(), [&](index row) {
        const index image = row / w.patch(), channel = row % w.patch() / w.taps(), tap = row % w.taps();
        const T* plane = images.row(image) + channel * w.pixels();
        T* out = patches.row(row);
        for (index at = 0; at < w.y.positions; ++at, out += w.x.positions) {
            const index y = w.y.pixel(at, tap / w.x.kernel, w.circular);
            if (y < 0)
                std::fill_n(out, w.x.positions, T(0));
            else
                gather_line(plane + y * w.x.size, w.x, tap % w.x.kernel, w.circular, out);
        }
    });
}

// The adjoint: images = beta images + the patches added up where they come from. A thread has whole planes.
template <class T>
void scatter_patches(View<const T> patches, const Windows& w, T beta, View<T> images) {
    for_rows(images.rows * w.channels, w.taps() * w.positions(), [&](index at_plane) {
        T* plane = images.row(at_plane / w.channels) + at_plane % w.channels * w.pixels();
        if (beta == T(0)) std::fill_n(plane, w.pixels(), T(0));
        for (index tap = 0; tap < w.taps(); ++tap) {
            const T* in = patches.row(at_plane * w.taps() + tap);
            for (index at = 0; at < w.y.positions; ++at, in += w.x.positions) {
                const index y = w.y.pixel(at, tap / w.x.kernel, w.circular);
                if (y >= 0) scatter_line(in, w.x, tap % w.x.kernel, w.circular, plane + y * w.x.size);
            }
        }
    });
}

// f(position, pixel of the plane) for all pixels under all windows, position by position, in the order of the taps.
template <class F>
void for_windows(const Windows& w, F&& f) {
    for (index py = 0; py < w.y.positions; ++py)
        for (index px = 0; px < w.x.positions; ++px)
            for (index a = 0; a < w.y.kernel; ++a) {
                const index y = w.y.pixel(py, a, false);
                if (y < 0) continue;
                for (index b = 0; b < w.x.kernel; ++b) {
                    const index x = w.x.pixel(px, b, false);
                    if (x >= 0) f(py * w.x.positions + px, y * w.x.size + x);
                }
            }
}

// out (m, channels positions) = beta out + the means under the windows, padding counted as zeros.
template <class T>
void pool_average(View<const T> images, const Windows& w, T beta, View<T> out) {
    const T share = T(1) / T(w.taps());
    for_rows(images.rows * w.channels, w.taps() * w.positions(), [&](index at) {
        const T* plane = images.row(at / w.channels) + at % w.channels * w.pixels();
        T* z = out.row(at / w.channels) + at % w.channels * w.positions();
        if (beta == T(0)) std::fill_n(z, w.positions(), T(0));
        for_windows(w, [&](index q, index pixel) { z[q] += share * plane[pixel]; });
    });
}

template <class T>
void spread_average(View<const T> g, const Windows& w, T beta, View<T> images) {
    const T share = T(1) / T(w.taps());
    for_rows(images.rows * w.channels, w.taps() * w.positions(), [&](index at) {
        T* plane = images.row(at / w.channels) + at % w.channels * w.pixels();
        const T* z = g.row(at / w.channels) + at % w.channels * w.positions();
        if (beta == T(0)) std::fill_n(plane, w.pixels(), T(0));
        for_windows(w, [&](index q, index pixel) { plane[pixel] += share * z[q]; });
    });
}

// The largest under each window and its pixel in the image, the first of several, as PyTorch has it.
template <class T>
void pool_max(View<const T> images, const Windows& w, View<T> out, View<std::int32_t> chosen) {
    for_rows(images.rows * w.channels, w.taps() * w.positions(), [&](index at) {
        const index image = at / w.channels, channel = at % w.channels;
        const T* plane = images.row(image) + channel * w.pixels();
        T* z = out.row(image) + channel * w.positions();
        std::int32_t* where = chosen.row(image) + channel * w.positions();
        std::fill_n(where, w.positions(), -1);
        for_windows(w, [&](index q, index pixel) {
            if (where[q] >= 0 && !(plane[pixel] > z[q])) return;
            z[q] = plane[pixel];
            where[q] = static_cast<std::int32_t>(channel * w.pixels() + pixel);
        });
    });
}

// out[j][i, q] = beta out[j][i, q] + t[j][i, chosen[i, q]]
template <class T>
void gather_chosen(View<const std::int32_t> chosen, Batch<const T> t, T beta, Batch<T> out) {
    for_rows(t.count * chosen.rows, chosen.cols, [&](index at) {
        const index j = at / chosen.rows, i = at % chosen.rows;
        const std::int32_t* where = chosen.row(i);
        const T* in = t[j].row(i);
        T* z = out[j].row(i);
        for (index q = 0; q < chosen.cols; ++q) z[q] = (beta == T(0) ? T(0) : beta * z[q]) + in[where[q]];
    });
}

// t[j][i, :] = beta t[j][i, :], then t[j][i, chosen[i, q]] += g[j][i, q]
template <class T>
void scatter_chosen(View<const std::int32_t> chosen, Batch<const T> g, T beta, Batch<T> t) {
    for_rows(g.count * chosen.rows, t.first.cols, [&](index at) {
        const index j = at / chosen.rows, i = at % chosen.rows;
        const std::int32_t* where = chosen.row(i);
        const T* in = g[j].row(i);
        T* z = t[j].row(i);
        if (beta == T(0)) std::fill_n(z, t.first.cols, T(0));
        for (index q = 0; q < chosen.cols; ++q) z[where[q]] += in[q];
    });
}

// x[j][i, (c, q)] += b[j][c] for all positions q.
template <class T>
void add_channels(Batch<T> x, Batch<const T> b) {
    const index channels = b.first.cols, positions = x.first.cols / channels;
    for_rows(x.count * x.first.rows * channels, positions, [&](index at) {
        const index c = at % channels, i = at / channels % x.first.rows, j = at / channels / x.first.rows;
        T* z = x[j].row(i) + c * positions;
        const T value = b[j].data[c];
        for (index q = 0; q < positions; ++q) z[q] += value;
    });
}

// out[j][i, c] = the sum of x[j][i, (c, q)] over the positions q.
template <class T>
void sum_channels(Batch<const T> x, Batch<T> out) {
    const index channels = out.first.cols, positions = x.first.cols / channels;
    for_rows(x.count * x.first.rows * channels, positions, [&](index at) {
        const index c = at % channels, i = at / channels % x.first.rows, j = at / channels / x.first.rows;
        const T* z = x[j].row(i) + c * positions;
        T total = 0;
        for (index q = 0; q < positions; ++q) total += z[q];
        out[j].row(i)[c] = total;
    });
}

}  // namespace gnfast::cpu::images
