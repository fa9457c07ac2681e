// Patches of images, pooling and steps by channels. Adjoints ask, for each number that they write, which windows read it: each is
// written by one thread, in a fixed order, without atomic sums. Bytes for N numbers of w bytes that are written.
#include "cuda/kernels.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {
namespace {

// A plane of an image, or of what stands at the positions over it, from the planes of all images counted through.
template <class T>
__device__ T* plane_of(View<T> images, const Windows& w, index plane, index numbers) {
    return images.row(plane / w.channels) + plane % w.channels * numbers;
}

// The sum over all windows that stand on pixel (y, x), and over the taps that see it there: value(tap, position).
template <class T, class F>
__device__ T sum_over_windows(const Windows& w, index y, index x, F&& value) {
    const index turns = w.circular ? 1 : 0;  // a window that goes around sees a pixel one size further as well
    T total = 0;
    for (index a = 0; a < w.y.kernel; ++a)
        for (index up = -turns; up <= turns; ++up) {
            const index at_y = w.y.position(y + up * w.y.size, a);
            if (at_y < 0) continue;
            for (index b = 0; b < w.x.kernel; ++b)
                for (index over = -turns; over <= turns; ++over) {
                    const index at_x = w.x.position(x + over * w.x.size, b);
                    if (at_x >= 0) total += value(a * w.x.kernel + b, at_y * w.x.positions + at_x);
                }
        }
    return total;
}

// f(pixel of the plane) for the pixels under the window at (py, px), in the order of the taps; padding is left out.
template <class F>
__device__ void for_window(const Windows& w, index py, index px, F&& f) {
    for (index a = 0; a < w.y.kernel; ++a) {
        const index y = w.y.pixel(py, a, false);
        if (y < 0) continue;
        for (index b = 0; b < w.x.kernel; ++b) {
            const index x = w.x.pixel(px, b, false);
            if (x >= 0) f(y * w.x.size + x);
        }
    }
}

}  // namespace

// 2 w N, the images' numbers coming from the cache for all taps but one. A thread finds its pixel once for several planes: its three
// divisions, some 60 steps, would take longer than a number's way to memory.
template <class T>
void gather_patches(Stream stream, View<const T> images, const Windows& windows, View<T> patches) {
    constexpr index at_once = 8;
    const Windows w = windows;
    const index planes = images.rows * w.channels;
    for_elements(stream, ceil_div(planes, at_once), w.taps(), w.positions(), [=] __device__(index part, index tap, index q) {
        const index y = w.y.pixel(q / w.x.positions, tap / w.x.kernel, w.circular);
        const index x = w.x.pixel(q % w.x.positions, tap % w.x.kernel, w.circular);
        const index first = part * at_once, last = first + at_once < planes ? first + at_once : planes;
        index image = first / w.channels, channel = first % w.channels;
        for (index plane = first; plane < last; ++plane) {
            patches.row(plane * w.taps() + tap)[q] = y < 0 || x < 0 ? T(0) : images.row(image)[channel * w.pixels() + y * w.x.size + x];
            if (++channel == w.channels) channel = 0, ++image;
        }
    });
}

// Reads taps / stride^2 numbers for each that it writes.
template <class T>
void scatter_patches(Stream stream, View<const T> patches, const Windows& windows, T beta, View<T> images) {
    const Windows w = windows;
    for_elements(stream, images.rows * w.channels, w.y.size, w.x.size, [=] __device__(index plane, index y, index x) {
        const T total =
            sum_over_windows<T>(w, y, x, [&](index tap, index position) { return patches.row(plane * w.taps() + tap)[position]; });
        norm::assign(plane_of(images, w, plane, w.pixels())[y * w.x.size + x], beta, total);
    });
}

template <class T>
void pool_average(Stream stream, View<const T> images, const Windows& windows, T beta, View<T> out) {
    const Windows w = windows;
    const T share = T(1) / T(w.taps());
    for_elements(stream, images.rows * w.channels, w.y.positions, w.x.positions, [=] __device__(index plane, index py, index px) {
        const T* const from = plane_of(images, w, plane, w.pixels());
        T total = 0;
        for_window(w, py, px, [&](index pixel) { total += share * from[pixel]; });
        norm::assign(plane_of(out, w, plane, w.positions())[py * w.x.positions + px], beta, total);
    });
}

template <class T>
void spread_average(Stream stream, View<const T> g, const Windows& windows, T beta, View<T> images) {
    const Windows w = windows;
    const T share = T(1) / T(w.taps());
    for_elements(stream, images.rows * w.channels, w.y.size, w.x.size, [=] __device__(index plane, index y, index x) {
        const T* const from = plane_of(g, w, plane, w.positions());
        const T total = sum_over_windows<T>(w, y, x, [&](index, index position) { return share * from[position]; });
        norm::assign(plane_of(images, w, plane, w.pixels())[y * w.x.size + x], beta, total);
    });
}

template <class T>
void pool_max(Stream stream, View<const T> images, const Windows& windows, View<T> out, View<std::int32_t> chosen) {
    const Windows w = windows;
    for_elements(stream, images.rows * w.channels, w.y.positions, w.x.positions, [=] __device__(index plane, index py, index px) {
        const T* const from = plane_of(images, w, plane, w.pixels());
        index best = -1;
        for_window(w, py, px, [&](index pixel) {
            if (best < 0 || from[pixel] > from[best]) best = pixel;
        });
        const index q = py * w.x.positions + px;
        plane_of(chosen, w, plane, w.positions())[q] = static_cast<std::int32_t>(best < 0 ? -1 : plane % w.channels * w.pixels() + best);
        if (best >= 0) plane_of(out, w, plane, w.positions())[q] = from[best];
    });
}

template <class T>
void gather_chosen(Stream stream, View<const std::int32_t> chosen, Batch<const T> t, T beta, Batch<T> out) {
    for_elements(stream, t.count, chosen.rows, chosen.cols,
                 [=] __device__(index j, index i, index q) { norm::assign(out[j].row(i)[q], beta, t[j].row(i)[chosen.row(i)[q]]); });
}

// Asks all windows over a pixel whether they chose it: taps / stride^2 choices are read for each number.
template <class T>
void scatter_chosen(Stream stream, View<const std::int32_t> chosen, const Windows& windows, Batch<const T> g, T beta, Batch<T> t) {
    const Windows w = windows;
    for_elements(stream, g.count * chosen.rows * w.channels, w.y.size, w.x.size, [=] __device__(index plane, index y, index x) {
        const index channel = plane % w.channels, i = plane / w.channels % chosen.rows, j = plane / w.channels / chosen.rows;
        const index pixel = channel * w.pixels() + y * w.x.size + x;
        const T total = sum_over_windows<T>(w, y, x, [&](index, index position) {
            const index q = channel * w.positions() + position;
            return chosen.row(i)[q] == pixel ? g[j].row(i)[q] : T(0);
        });
        norm::assign(t[j].row(i)[pixel], beta, total);
    });
}

// 2 w N
template <class T>
void add_channels(Stream stream, Batch<T> x, Batch<const T> b) {
    const index n = x.first.rows, channels = b.first.cols, positions = x.first.cols / channels;
    for_elements(stream, x.count * n, channels, positions,
                 [=] __device__(index at, index c, index q) { x[at / n].row(at % n)[c * positions + q] += b[at / n].data[c]; });
}

#define GNFAST_INSTANTIATE(T)                                                                                    \
    template void gather_patches(Stream, View<const T>, const Windows&, View<T>);                                \
    template void scatter_patches(Stream, View<const T>, const Windows&, T, View<T>);                            \
    template void pool_average(Stream, View<const T>, const Windows&, T, View<T>);                               \
    template void spread_average(Stream, View<const T>, const Windows&, T, View<T>);                             \
    template void pool_max(Stream, View<const T>, const Windows&, View<T>, View<std::int32_t>);                  \
    template void gather_chosen(Stream, View<const std::int32_t>, Batch<const T>, T, Batch<T>);                  \
    template void scatter_chosen(Stream, View<const std::int32_t>, const Windows&, Batch<const T>, T, Batch<T>); \
    template void add_channels(Stream, Batch<T>, Batch<const T>);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
