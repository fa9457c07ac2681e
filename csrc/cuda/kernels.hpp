// What the GPU's verbs run that no library has: one function a kernel, for float and double, each enqueued on the stream and done when
// its turn comes. Named as the verbs of core/backend.hpp, where what they mean is said.
#pragma once

#include <cstdint>

#include "core/loss.hpp"
#include "core/norm.hpp"
#include "core/types.hpp"
#include "core/windows.hpp"
#include "cuda/stream.hpp"

namespace gnfast::cuda::kernels {

// ------------------------------------------------------------------------------------------- kernels_pointwise.cu
template <class T>
void fill(Stream stream, View<T> out, T value);
template <class S, class T>
void copy(Stream stream, View<const S> in, View<T> out);  // also from one precision to the other
template <class T, class F>
void apply(Stream stream, F f, View<const T> z, View<T> value, View<T> derivative);  // f of core/pointwise.hpp; value may be z
template <class T>
void multiply_rows(Stream stream, Batch<T> x, View<const T> d);
template <class T>
void multiply_row_groups(Stream stream, View<T> x, View<const T> d, index group);
template <class T>
void add_row(Stream stream, Batch<T> x, Batch<const T> row);
template <class T>
void add_product(Stream stream, View<const T> a, View<const T> b, View<T> out);
template <class T>
void add_diagonal(Stream stream, View<T> out, T value);
template <class T>
void scale_add(Stream stream, T alpha, View<const T> in, T beta, View<T> out);
// alphas, betas: a number a row, on the device.
template <class T>
void combine_rows(Stream stream, const double* alphas, View<const T> in, const double* betas, View<T> out);
template <class T>
void add_rows(Stream stream, double scale, View<const double> factors, View<const T> in, View<T> out);
template <class T>
void resize_rows(Stream stream, View<const double> squares, double length, View<T> x);

// ------------------------------------------------------------------------------------------- kernels_random.cu
// Columns from `first` on, a multiple of 4, of the random matrix.
template <class T>
void fill_normal(Stream stream, View<T> out, std::uint64_t seed, std::uint64_t sequence, double scale, index first = 0);
template <class T>
void fill_uniform(Stream stream, View<T> out, std::uint64_t seed, std::uint64_t sequence, double low, double high);
template <class T>
void fill_signs(Stream stream, View<T> out, std::uint64_t seed, std::uint64_t sequence);

// ------------------------------------------------------------------------------------------- kernels_convolutions.cu
template <class T>
void convolve(Stream stream, Grid<const T> weights, Grid<const T> images, const Windows& windows, T beta, Grid<T> out);
template <class T>
void convolve_back(Stream stream, Grid<const T> weights, Grid<const T> g, const Windows& windows, T beta, Grid<T> images);

// ------------------------------------------------------------------------------------------- kernels_images.cu
template <class T>
void gather_patches(Stream stream, View<const T> images, const Windows& windows, View<T> patches);
template <class T>
void scatter_patches(Stream stream, View<const T> patches, const Windows& windows, T beta, View<T> images);
template <class T>
void pool_average(Stream stream, View<const T> images, const Windows& windows, T beta, View<T> out);
template <class T>
void spread_average(Stream stream, View<const T> g, const Windows& windows, T beta, View<T> images);
template <class T>
void pool_max(Stream stream, View<const T> images, const Windows& windows, View<T> out, View<std::int32_t> chosen);
template <class T>
void gather_chosen(Stream stream, View<const std::int32_t> chosen, Batch<const T> t, T beta, Batch<T> out);
template <class T>
void scatter_chosen(Stream stream, View<const std::int32_t> chosen, const Windows& windows, Batch<const T> g, T beta, Batch<T> t);
template <class T>
void add_channels(Stream stream, Batch<T> x, Batch<const T> b);

// ------------------------------------------------------------------------------------------- kernels_norms.cu
template <class T>
void normalize(Stream stream, View<const T> x, const NormShape& shape, double eps, View<T> normalized, View<T> inverse);
template <class T>
void normalize_derivative(Stream stream, View<const T> normalized, View<const T> inverse, const NormShape& shape, View<const T> gain,
                          bool gain_first, Batch<const T> in, T beta, Batch<T> out);
template <class T>
void affine_channels(Stream stream, Batch<const T> x, Batch<const T> gain, Batch<const T> shift, const NormShape& shape, T beta,
                     Batch<T> out);

// ------------------------------------------------------------------------------------------- kernels_sums.cu
// out[i] = <a_i, b_i> in double; room, of row_dots_room numbers, holds what the sums of long rows are made of.
index row_dots_room(index rows, index cols);
template <class T>
void row_dots(Stream stream, View<const T> a, View<const T> b, double* out, double* room);
template <class T>
void sum_channels_of(Stream stream, Batch<const T> g, View<const T> x, const NormShape& shape, T beta, Batch<T> out);
template <class T>
void sum_channels(Stream stream, Batch<const T> x, Batch<T> out);
template <class T>
void sum_rows(Stream stream, Batch<const T> x, T beta, Batch<T> out);

// ------------------------------------------------------------------------------------------- kernels_loss.cu
template <class T>
void loss_prepare(Stream stream, Loss loss, View<const T> outputs, View<T> kept);
template <class T>
void loss_hessian(Stream stream, Loss loss, View<const T> kept, T scale, Batch<T> u);
template <class T>
void loss_factor(Stream stream, Loss loss, View<const T> kept, bool reduced, T scale, View<T> rows);

// ------------------------------------------------------------------------------------------- kernels_matrices.cu
template <class T>
void transpose(Stream stream, Batch<const T> in, Batch<T> out);
// The upper triangle of a square matrix becomes the lower one's mirror image.
template <class T>
void mirror_lower(Stream stream, View<T> a);

// A tile of the Gram matrix, samples i of its rows and j of its columns, r rows a sample: with w((i, a), (j, b)) = inputs(i, j) + bias,
// out = w o (another factor), added to what is there unless it is the `first`. Of a tile on the diagonal the lower triangle (lower_only).
// By the Gram of backward rows; out may be these itself where it is the first.
template <class T>
void hadamard(Stream stream, View<const T> inputs, T bias, index r, View<const T> rows, View<T> out, bool lower_only, bool first);
// By products (pairs i, j), pairs a <= b numbered as in core/triangle.hpp: of rows that share a factor, see GramTerm.
template <class T>
void hadamard_pairs(Stream stream, View<const T> inputs, T bias, index r, View<const T> products, View<T> out, bool lower_only, bool first);
// By weights (r, r), the same for all samples.
template <class T>
void hadamard_shared(Stream stream, View<const T> inputs, T bias, index r, View<const T> weights, View<T> out, bool lower_only, bool first);
// out ((p, i), :) = factor[a] o factor[b] o derivative[i] for the pairs p = (a, b) from `first_pair` on: what hadamard_pairs' products
// are made of, by one multiplication with the derivatives' transposed.
template <class T>
void pair_rows(Stream stream, View<const T> factor, View<const T> derivative, index first_pair, View<T> out);

}  // namespace gnfast::cuda::kernels
