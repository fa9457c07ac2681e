// A convolution by the patches of a few images at a time and products of matrices: out_i (o, positions) = W (o, patch) patches_i; or,
// where there are few filters, by kernels that read the images instead, if a backend has them.
// The order of a sample is (channels, height, width). With groups, each has its rows of W, of the patches and of the output.
#pragma once

#include <algorithm>

#include "algo/in_double.hpp"
#include "algo/layers/account.hpp"
#include "algo/layers/kept.hpp"
#include "algo/layers/part.hpp"
#include "algo/workspace.hpp"
#include "core/windows.hpp"

namespace gnfast::layers {

template <class T>
struct Convolution {
    View<const T> weight;     // (out channels, channels / groups * taps)
    const T* bias = nullptr;  // (out channels) or none
    Windows windows;
    index groups = 1;
    index offset = 0;  // of the weight in the flat parameter vector; the bias follows it

    index inputs() const { return windows.inputs(); }
    index outputs() const { return weight.rows * windows.positions(); }
    index parameters() const { return weight.rows * (weight.cols + (bias ? 1 : 0)); }
    // Multiply-adds of one pass over one sample.
    double gemm() const { return double(outputs()) * double(weight.cols); }
    // Numbers of one image's patches; none where the image is its patches.
    index patch_numbers() const { return windows.trivial() ? 0 : windows.patch() * windows.positions(); }

    static constexpr bool has_moments = true;
    bool couples_samples() const { return false; }
    bool touched(const Part& part) const { return part.holds(offset); }
    void tell(Account& seen) const {
        seen.product(gemm());
        seen.kept += double(seen.width);
        seen.patches = std::max(seen.patches, double(patch_numbers()));
        seen.through(outputs(), bias ? double(weight.rows) : 0);
    }

    template <class Pass>
    typename Pass::Value forward(Pass& pass, const typename Pass::Value& x, Kept<T>& kept) const {
        pass.keep(x, kept.input);
        const auto w = pass.in_double(weight), b = pass.in_double(View<const T>(bias, 1, weight.rows));
        const auto out = pass.make(x.view.rows, outputs());
        const Batch<double> target(out.view, 1, 0);
        Convolution<double>{w.view(), nullptr, windows, groups, 0}.push(pass.work(), {}, Batch<const double>(x.view, 1, 0), target, 0.0);
        if (bias) pass.backend().add_channels(target, Batch<const double>(b.view(), 1, 0));
        return out;
    }
    // out_j = the convolution of x with the direction dW_j in row j of v, plus db_j: the patches of x are made once for all j.
    template <class B>
    void direction(Workspace<B, T>& work, const Kept<T>& kept, View<const T> v, Batch<T> out) const {
        convolve(
            work, kept.input, v.rows, [&](index g, index count) { return Grid<const T>(weights(v.data, g), v.rows, v.stride, count, 0); },
            T(0), out);
        if (bias) work.backend.add_channels(out, Batch<const T>(View<const T>(v.data + bias_offset(), 1, weight.rows), v.rows, v.stride));
    }

    // out_j = beta out_j + the convolution of t_j.
    template <class B>
    void push(Workspace<B, T>& work, const Kept<T>&, Batch<const T> t, Batch<T> out, T beta) const {
        convolve(work, flat(t), 1, [&](index g, index count) { return own_weights(g, count); }, beta, Batch<T>(flat(out), 1, 0));
    }

    // t_j = the transposed convolution of g_j.
    template <class B>
    void pull(Workspace<B, T>& work, const Kept<T>&, Batch<const T> g, Batch<T> t) const {
        const View<const T> from = flat(g);
        const View<T> to = flat(t);
        if constexpr (B::own_convolutions)
            if (reads_images(work)) {
                for (index q = 0; q < groups; ++q)
                    work.backend.convolve_back(own_weights(q, from.rows), part(Batch<const T>(from, 1, 0), 0, from.rows, q), of_group(),
                                               T(0), planes(to, q, 1));
                return;
            }
        const index most = images_at_a_time(work, from.rows);
        const auto lease = work.acquire(patch_numbers() * most);
        for (index first = 0; first < from.rows; first += most) {
            const index count = std::min(most, from.rows - first);
            const View<T> target = to.row_range(first, count);
            const View<T> patches(windows.trivial() ? target.data : lease.data(), count * windows.patch(), windows.positions());
            for (index q = 0; q < groups; ++q)
                work.backend.gemm_grid(Op::transpose, Op::none, T(1), own_weights(q, count),
                                       part(Batch<const T>(from, 1, 0), first, count, q), T(0), shared(patches, q, 1, count));
            if (!windows.trivial()) work.backend.scatter_patches(View<const T>(patches), windows, T(0), target);
        }
    }

    // Row j of grad: dW_j = beta dW_j + sum_i g_ji patches_i^T, db_j likewise.
    template <class B>
    void gradient(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, T beta, View<T> grad) const {
        for_patches(work, kept.input, [&](index first, View<const T> patches, index count) {
            for (index q = 0; q < groups; ++q)
                work.backend.gemm_grid(Op::none, Op::transpose, T(1), part(g, first, count, q), shared(patches, q, g.count, count),
                                       first == 0 ? beta : T(1), Grid<T>(weights(grad.data, q), g.count, grad.stride, count, 0));
        });
        if (!bias) return;
        const index n = g.first.rows, o = weight.rows;
        const auto lease = work.acquire(g.count * n * o);
        const Batch<T> sums(View<T>(lease.data(), n, o), g.count, n * o);
        work.backend.sum_channels(g, sums);
        work.backend.sum_rows(Batch<const T>(sums), beta, Batch<T>(View<T>(grad.data + bias_offset(), 1, o), g.count, grad.stride));
    }

    // rows[c] (n, parameters of the network): row i holds g_ci patches_i^T and the sums of g_ci.
    template <class B>
    void sample_gradients(Workspace<B, T>& work, const Kept<T>& kept, Batch<const T> g, Batch<T> rows) const {
        for_patches(work, kept.input, [&](index first, View<const T> patches, index count) {
            for (index q = 0; q < groups; ++q)
                work.backend.gemm_grid(Op::none, Op::transpose, T(1), part(g, first, count, q), shared(patches, q, g.count, count), T(0),
                                       Grid<T>(weights(rows.first.row(first), q), g.count, rows.step, count, rows.first.stride));
        });
        if (bias)
            work.backend.sum_channels(g, Batch<T>(View<T>(rows.first.data + bias_offset(), rows.first.rows, weight.rows, rows.first.stride),
                                                  rows.count, rows.step));
    }

    // Of each group one below another, in double: out += sum over images and positions of patch patch^T, with the sums of the patches
    // below, where there is a bias,
    template <class B>
    void add_input_moment(Workspace<B, T>& work, const Kept<T>& kept, View<double> out) const {
        const index d = weight.cols, size = out.cols, patch = windows.patch();
        for_patches(work, kept.input, [&](index, View<const T> patches, index count) {
            const InDouble<B, T> wide(work.backend, patches);
            for (index q = 0; q < groups; ++q)
                work.backend.gemm_grid(Op::none, Op::transpose, 1.0, shared(wide.view(), q, 1, count), shared(wide.view(), q, 1, count),
                                       1.0, Grid<double>(out.block(q * size, d, 0, d), 1, 0, count, 0));
            if (!bias) return;
            auto sums = work.backend.template allocate<double>(count * patch);
            work.backend.sum_channels(Batch<const double>(View<const double>(wide.view().data, count, patch * windows.positions()), 1, 0),
                                      Batch<double>(View<double>(sums.data(), count, patch), 1, 0));
            for (index q = 0; q < groups; ++q)
                work.backend.sum_rows(Batch<const double>(View<const double>(sums.data() + q * d, count, d, patch), 1, 0), 1.0,
                                      Batch<double>(out.block(q * size + d, 1, 0, d), 1, 0));
        });
    }
    // and out += sum over vectors, images and positions of g g^T.
    template <class B>
    void add_output_moment(Workspace<B, T>& work, Batch<const T> g, View<double> out) const {
        const InDouble<B, T> wide(work.backend, flat(g));
        const View<const double> all = wide.view();
        for (index q = 0; q < groups; ++q) {
            const Grid<const double> one = part(Batch<const double>(all, 1, 0), 0, all.rows, q);
            work.backend.gemm_grid(Op::none, Op::transpose, 1.0, one, one, 1.0,
                                   Grid<double>(out.row_range(q * out_group(), out_group()), 1, 0, all.rows, 0));
        }
    }

   private:
    index bias_offset() const { return offset + weight.rows * weight.cols; }
    index out_group() const { return weight.rows / groups; }

    // out_j = beta out_j + the convolution of the images with weights_of(group, images)'s member j, for so many vectors.
    template <class B, class F>
    void convolve(Workspace<B, T>& work, View<const T> images, index vectors, F&& weights_of, T beta, Batch<T> out) const {
        if constexpr (B::own_convolutions)
            if (reads_images(work)) {
                for (index g = 0; g < groups; ++g)
                    work.backend.convolve(weights_of(g, images.rows), planes(images, g, vectors), of_group(), beta,
                                          part(out, 0, images.rows, g));
                return;
            }
        for_patches(work, images, [&](index first, View<const T> patches, index count) {
            for (index g = 0; g < groups; ++g)
                work.backend.gemm_grid(Op::none, Op::none, T(1), weights_of(g, count), shared(patches, g, vectors, count), beta,
                                       part(out, first, count, g));
        });
    }

    template <class B>
    bool reads_images(const Workspace<B, T>& work) const {
        return !windows.trivial() && work.backend.convolves(out_group());
    }

    // The windows on the channels of one group, and these channels of each image, the same for all vectors.
    Windows of_group() const { return {windows.channels / groups, windows.y, windows.x, windows.circular}; }
    template <class U>
    Grid<U> planes(View<U> images, index g, index vectors) const {
        const index channels = windows.channels / groups;
        return {View<U>(images.data + g * channels * windows.pixels(), channels, windows.pixels()), vectors, 0, images.rows, images.stride};
    }

    template <class B>
    index images_at_a_time(const Workspace<B, T>& work, index images) const {
        return windows.trivial() ? images : std::max<index>(1, std::min(images, work.patches / patch_numbers()));
    }

    // f(first image, their patches (count patch, positions), count)
    template <class B, class F>
    void for_patches(Workspace<B, T>& work, View<const T> images, F&& f) const {
        const index most = images_at_a_time(work, images.rows);
        const auto lease = work.acquire(patch_numbers() * most);
        for (index first = 0; first < images.rows; first += most) {
            const index count = std::min(most, images.rows - first);
            const View<const T> some = images.row_range(first, count);
            const index rows = count * windows.patch();
            if (windows.trivial()) {
                f(first, View<const T>(some.data, rows, windows.positions()), count);
                continue;
            }
            const View<T> patches(lease.data(), rows, windows.positions());
            work.backend.gather_patches(some, windows, patches);
            f(first, View<const T>(patches), count);
        }
    }

    // Group g of the weights of a flat parameter vector.
    template <class U>
    View<U> weights(U* parameters, index g) const {
        return {parameters + offset + g * out_group() * weight.cols, out_group(), weight.cols};
    }
    Grid<const T> own_weights(index g, index count) const { return {weight.row_range(g * out_group(), out_group()), 1, 0, count, 0}; }

    // Group g of the patches of each image, the same for all vectors.
    template <class U>
    Grid<U> shared(View<U> patches, index g, index vectors, index count) const {
        const index rows = windows.patch() / groups;
        return {View<U>(patches.row(g * rows), rows, windows.positions()), vectors, 0, count, windows.patch() * windows.positions()};
    }

    // Group g of the outputs of the samples from `first` on.
    template <class U>
    Grid<U> part(Batch<U> out, index first, index count, index g) const {
        return {View<U>(out.first.row(first) + g * out_group() * windows.positions(), out_group(), windows.positions()), out.count,
                out.step, count, outputs()};
    }
};

}  // namespace gnfast::layers
