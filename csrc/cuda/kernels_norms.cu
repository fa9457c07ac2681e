// Normalisation, its derivative and steps by channels. Sums are in double, as on the processor.
#include "cuda/kernels.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {

// Reads a group, or a channel, three times and writes it once: what fits in the cache comes from it.
template <class T>
void normalize(Stream stream, View<const T> x, const NormShape& shape, double eps, View<T> normalized, View<T> inverse) {
    if (shape.group) {
        const index groups = shape.groups(), size = shape.group;
        return for_rows(stream, x.rows * groups, size, [=] __device__(index task, const Lanes& lanes) {
            const index i = task / groups, at = task % groups;
            const T* const in = x.row(i) + at * size;
            double mean = 0, squares = 0;
            for (index q = lanes.first; q < size; q += lanes.step) mean += double(in[q]);
            mean = lanes.sum(mean) / double(size);
            for (index q = lanes.first; q < size; q += lanes.step) squares += (double(in[q]) - mean) * (double(in[q]) - mean);
            const double factor = norm::inverse_deviation(lanes.sum(squares), double(size), mean, eps);
            for (index q = lanes.first; q < size; q += lanes.step)
                normalized.row(i)[at * size + q] = norm::standardize(in[q], mean, factor);
            if (lanes.first == 0) inverse.row(i)[at] = T(factor);
        });
    }
    const index n = x.rows;
    const double size = double(n * shape.inner);
    for_channels(stream, 1, shape, [=] __device__(index, const ChannelBlock& block) {
        double mean = 0, squares = 0;
        block.for_values(n, [&](index i, index at) { mean += double(x.row(i)[at]); });
        mean = block.sum(mean) / size;
        block.for_values(n, [&](index i, index at) { squares += (double(x.row(i)[at]) - mean) * (double(x.row(i)[at]) - mean); });
        const double factor = norm::inverse_deviation(block.sum(squares), size, mean, eps);
        block.for_values(n, [&](index i, index at) { normalized.row(i)[at] = norm::standardize(x.row(i)[at], mean, factor); });
        if (block.leads()) inverse.row(0)[block.channel] = T(factor);
    });
}

// Reads in_j and normalized twice, writes out_j; normalized comes from the cache for all vectors but one.
template <class T>
void normalize_derivative(Stream stream, View<const T> normalized, View<const T> inverse, const NormShape& shape, View<const T> gain,
                          bool gain_first, Batch<const T> in, T beta, Batch<T> out) {
    const index n = normalized.rows;
    if (shape.group) {
        const index groups = shape.groups(), size = shape.group;
        const T *const before = gain_first ? gain.data : nullptr, *const after = gain_first ? nullptr : gain.data;
        return for_rows(stream, in.count * n * groups, size, [=] __device__(index task, const Lanes& lanes) {
            const index j = task / (n * groups), i = task / groups % n, at = task % groups;
            const T *const t = in[j].row(i) + at * size, *const x = normalized.row(i) + at * size;
            T* const to = out[j].row(i) + at * size;
            const auto moved = [&](index q) { return before ? double(before[q]) * double(t[q]) : double(t[q]); };
            double mean = 0, slope = 0;
            for (index q = lanes.first; q < size; q += lanes.step) {
                mean += moved(q);
                slope += moved(q) * double(x[q]);
            }
            mean = lanes.sum(mean) / double(size), slope = lanes.sum(slope) / double(size);
            const double factor = double(inverse.row(i)[at]);
            for (index q = lanes.first; q < size; q += lanes.step) {
                const double value = norm::project(moved(q), mean, x[q], slope);
                norm::assign(to[q], beta, T((after ? double(after[q]) * factor : factor) * value));
            }
        });
    }
    const double size = double(n * shape.inner);
    for_channels(stream, in.count, shape, [=] __device__(index j, const ChannelBlock& block) {
        const View<const T> t = in[j];
        const View<T> to = out[j];
        double mean = 0, slope = 0;
        block.for_values(n, [&](index i, index at) {
            mean += double(t.row(i)[at]);
            slope += double(t.row(i)[at]) * double(normalized.row(i)[at]);
        });
        mean = block.sum(mean) / size, slope = block.sum(slope) / size;
        block.for_values(n, [&](index i, index at) {
            const double factor = double(inverse.row(0)[block.channel]) * (gain.data ? double(gain.data[block.channel]) : 1.0);
            norm::assign(to.row(i)[at], beta, T(factor * norm::project(double(t.row(i)[at]), mean, normalized.row(i)[at], slope)));
        });
    });
}

// 2 w N bytes for N numbers of w bytes.
template <class T>
void affine_channels(Stream stream, Batch<const T> x, Batch<const T> gain, Batch<const T> shift, const NormShape& shape, T beta,
                     Batch<T> out) {
    const index n = out.first.rows, repeats = shape.repeats(), inner = shape.inner, channels = shape.channels;
    for_elements(stream, out.count * n * repeats, channels, inner, [=] __device__(index at, index c, index q) {
        const index j = at / repeats / n, i = at / repeats % n, place = (at % repeats * channels + c) * inner + q;
        const T a = gain.first.data ? gain[j].data[c] : T(1), b = shift.first.data ? shift[j].data[c] : T(0);
        norm::assign(out[j].row(i)[place], beta, x.first.data ? a * x[j].row(i)[place] + b : b);
    });
}

#define GNFAST_INSTANTIATE(T)                                                                                                          \
    template void normalize(Stream, View<const T>, const NormShape&, double, View<T>, View<T>);                                        \
    template void normalize_derivative(Stream, View<const T>, View<const T>, const NormShape&, View<const T>, bool, Batch<const T>, T, \
                                       Batch<T>);                                                                                      \
    template void affine_channels(Stream, Batch<const T>, Batch<const T>, Batch<const T>, const NormShape&, T, Batch<T>);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
