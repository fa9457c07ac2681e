// Sums, in double and in an order of their own: inner products of long rows, over samples, and over what lies in a channel.
#include "cuda/kernels.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {
namespace {

// Numbers of a row that are worth a block: 64 for each of its threads.
constexpr index part_length = 64 * block_threads;
constexpr index most_parts = 1024;

index parts_of(index cols) { return std::clamp<index>(cols / part_length, 1, most_parts); }

template <class T>
__global__ void partial_dots(View<const T> a, View<const T> b, index parts, double* out) {
    double* const shared = shared_memory<double>();
    for (index task = blockIdx.x; task < a.rows * parts; task += gridDim.x) {
        const index part = task % parts, first = a.cols * part / parts, last = a.cols * (part + 1) / parts;
        const T *const x = a.row(task / parts), *const y = b.row(task / parts);
        double total = 0;
        for (index q = first + threadIdx.x; q < last; q += blockDim.x) total += double(x[q]) * double(y[q]);
        total = Lanes(32).sum(total);
        if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = total;
        __syncthreads();
        if (threadIdx.x == 0) {
            total = 0;
            for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += shared[warp];
            out[task] = total;
        }
        __syncthreads();
    }
}

}  // namespace

index row_dots_room(index rows, index cols) { return parts_of(cols) == 1 ? 0 : rows * parts_of(cols); }

// 2 w N bytes for N pairs of numbers of w bytes; 2 N flops in double.
template <class T>
void row_dots(Stream stream, View<const T> a, View<const T> b, double* out, double* room) {
    const index rows = a.rows, parts = parts_of(a.cols);
    if (rows == 0) return;
    const unsigned threads = std::max(32u, power_of_two(a.cols, block_threads));
    double* const partial = parts == 1 ? out : room;
    launch<Threads::together>(partial_dots<T>, dim3(blocks_for(rows * parts)), dim3(threads), threads / 32 * sizeof(double), stream, a, b,
                              parts, partial);
    if (parts == 1) return;
    for_rows(stream, rows, parts, [=] __device__(index i, const Lanes& lanes) {
        double total = 0;
        for (index part = lanes.first; part < parts; part += lanes.step) total += partial[i * parts + part];
        total = lanes.sum(total);
        if (lanes.first == 0) out[i] = total;
    });
}

// w N bytes for N numbers that are added up; x comes from the cache for all vectors but one.
template <class T>
void sum_channels_of(Stream stream, Batch<const T> g, View<const T> x, const NormShape& shape, T beta, Batch<T> out) {
    const index n = g.first.rows, repeats = shape.repeats(), inner = shape.inner, channels = shape.channels;
    if (out.first.rows == n)  // a sum for each sample
        return for_rows(stream, g.count * n * channels, inner, [=] __device__(index task, const Lanes& lanes) {
            const index c = task % channels, i = task / channels % n, j = task / channels / n;
            double total = 0;
            for (index r = 0; r < repeats; ++r)
                for (index q = lanes.first; q < inner; q += lanes.step) {
                    const index at = (r * channels + c) * inner + q;
                    total += double(g[j].row(i)[at]) * (x.data ? double(x.row(i)[at]) : 1.0);
                }
            total = lanes.sum(total);
            if (lanes.first == 0) norm::assign(out[j].row(i)[c], beta, T(total));
        });
    for_channels(stream, g.count, shape, [=] __device__(index j, const ChannelBlock& block) {
        double total = 0;
        block.for_values(n, [&](index i, index at) { total += double(g[j].row(i)[at]) * (x.data ? double(x.row(i)[at]) : 1.0); });
        total = block.sum(total);
        if (block.leads()) norm::assign(out[j].data[block.channel], beta, T(total));
    });
}

template <class T>
void sum_channels(Stream stream, Batch<const T> x, Batch<T> out) {
    const index channels = out.first.cols;
    sum_channels_of(stream, x, View<const T>(), NormShape{x.first.cols, channels, x.first.cols / channels, 0}, T(0), out);
}

template <class T>
void sum_rows(Stream stream, Batch<const T> x, T beta, Batch<T> out) {
    sum_channels_of(stream, x, View<const T>(), NormShape{x.first.cols, x.first.cols, 1, 0}, beta, out);
}

#define GNFAST_INSTANTIATE(T)                                                                            \
    template void row_dots(Stream, View<const T>, View<const T>, double*, double*);                      \
    template void sum_rows(Stream, Batch<const T>, T, Batch<T>);                                         \
    template void sum_channels_of(Stream, Batch<const T>, View<const T>, const NormShape&, T, Batch<T>); \
    template void sum_channels(Stream, Batch<const T>, Batch<T>);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
