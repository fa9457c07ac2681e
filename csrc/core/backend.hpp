// The verbs that algo/ may call, which CpuBackend and CudaBackend have. What lies in a backend's memory is read and written by verbs
// alone: numbers that an algorithm looks at come through on_host, those that it made come back through from_host.
// Matrices are row-major views; a block of s vectors is (s, length), one vector a row.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/loss.hpp"
#include "core/norm.hpp"
#include "core/pointwise.hpp"
#include "core/types.hpp"
#include "core/windows.hpp"

namespace gnfast {

// One dense layer's share of the Gram matrix: K[(i,c),(j,e)] += (<a_i, a_j> + bias) <b_ic, b_je>. Where rows share a factor, b_ic =
// factor_c o derivative_i, a backend may do with half of the products; without a derivative b_ic = factor_c.
template <class T>
struct GramTerm {
    View<const T> inputs;  // (n, fan_in)
    View<const T> rows;    // (n r, fan_out)
    bool bias;
    View<const T> factor{};      // (r, fan_out), or none
    View<const T> derivative{};  // (n, fan_out), or none
};

// One dense layer's share of the factored product: its inputs, the backward rows behind it, and where its weight, followed by
// its bias if it has one, lies in a vector of parameters.
template <class T>
struct FactoredTerm {
    View<const T> inputs;  // (n, fan_in)
    View<const T> rows;    // (n r, fan_out)
    index offset;
    bool bias;
};

// How far a square matrix is from symmetric: the largest |a_ij| and |a_ij - a_ji|, and whether all entries are finite.
struct Asymmetry {
    double scale, difference;
    bool finite;
};

// Convolutions that read images where they lie, without patches in memory. Members of grids are (o, patch) of weights, (channels,
// pixels) of images and (o, positions) of outputs.
template <class B, class T>
concept ConvolvingFor = requires(B& backend, index i, Grid<T> outs, Grid<const T> ins, const Windows& windows, T x) {
    { backend.convolves(i) } -> std::same_as<bool>;     // whether it should, with i rows of weights
    backend.convolve(ins, ins, windows, x, outs);       // weights, images: out_ji = x out_ji + weights_j patches_ji
    backend.convolve_back(ins, ins, windows, x, outs);  // weights, outputs: the adjoint
};

template <class B, class T>
concept BackendFor = requires(
    B& backend, View<T> out, View<const T> in, Batch<T> outs, Batch<const T> ins, T x, index i, std::span<const GramTerm<T>> terms,
    typename B::template factored<T> product, std::span<const typename B::template packed<T>> matrices, std::vector<double>& host,
    pointwise::Tanh f, Grid<T> grid, Grid<const T> grid_in, const Windows& windows, View<std::int32_t> chosen, const NormShape& shape) {
    // Memory: a buffer has data() and size() and is not initialised.
    { backend.template allocate<T>(i).data() } -> std::convertible_to<T*>;
    { backend.on_host(in, std::declval<std::vector<T>&>()) } -> std::same_as<View<const T>>;  // in itself, or a copy of it
    backend.from_host(View<const double>(), out);  // from the host's memory, also from one precision to the other
    backend.from_host(in, out);
    backend.fill(out, x);
    backend.copy(in, out);
    backend.transpose(ins, outs);
    // BLAS and LAPACK. Products of matrices may be made in less precision than T, unless a full_precision() lives in the same scope.
    backend.full_precision();
    { backend.template resolution<T>() } -> std::same_as<double>;       // relative rounding of a product now
    backend.gemm(Op::none, Op::transpose, x, in, in, x, out);           // out = x op(in) op(in) + x out
    backend.gemm_batch(Op::none, Op::transpose, x, ins, ins, x, outs);  // the same for each member
    // For each (j, i) the same, or, where out has inner_step 0, out_j = x sum_i op(in_ji) op(in_ji) + x out_j.
    backend.gemm_grid(Op::none, Op::transpose, x, grid_in, grid_in, x, grid);
    backend.syrk(in, out);            // out = in in^T, both triangles
    backend.symm_lower(in, in, out);  // out = v K, K given by its lower triangle
    { backend.asymmetry(in) } -> std::same_as<Asymmetry>;
    { backend.cholesky(out) } -> std::same_as<index>;  // lower, in place; 0 or the failing pivot from 1
    backend.cholesky_solve(in, out);                   // each row x of out <- (L L^T)^-1 x
    backend.small_eigh(host, i, host);                 // host, double: eigenvectors in rows, eigenvalues
    // Small matrices in the backend's memory, see core/elimination.hpp: what makes the rows of a Gram matrix orthonormal (to, from, marks),
    // and the inverse of a semi-definite one (out, marks).
    backend.orthonormal_factor(in, 0.0, 0.0, true, out, View<double>(), View<double>());
    backend.semidefinite_inverse(in, 0.0, 0.0, out, View<double>());
    requires std::constructible_from<typename B::template packed<T>, View<const T>>;
    backend.kronecker_sum(in, matrices, in, out);  // out_j = sum_l P_l V_j B_l^T
    // Reductions and pointwise steps.
    backend.row_dots(in, in, host);            // <a_i, b_i> for each row, summed in double
    backend.row_dots(in, in, View<double>());  // the same, left in the backend's memory (1, rows)
    backend.apply(f, in, out, out);            // value, derivative <- f(in)
    backend.multiply_rows(outs, in);           // outs[j] *= in
    backend.multiply_row_groups(out, in, i);   // i consecutive rows of out *= one row of in
    backend.add_row(outs, ins);                // each row of outs[j] += ins[j]
    backend.sum_rows(ins, x, outs);            // outs[j] = x outs[j] + sum of the rows of ins[j], x = 0 or 1
    backend.add_product(in, in, out);          // out += in * in, elementwise
    backend.add_diagonal(out, x);              // out[a, a] += x: a rectangular identity
    backend.scale_add(x, in, x, out);          // out = x in + x out
    // Images (m, channels height width) and their patches (m patch, positions); pooling; sums over positions.
    backend.gather_patches(in, windows, out);
    backend.scatter_patches(in, windows, x, out);                           // out = x out + the adjoint, x = 0 or 1
    requires std::same_as<decltype(B::own_convolutions), const bool>;       // whether there are ConvolvingFor's verbs
    backend.pool_average(in, windows, x, out);                              // out = x out + the means, x = 0 or 1
    backend.spread_average(in, windows, x, out);                            // the adjoint
    backend.pool_max(in, windows, out, chosen);                             // chosen: the pixel of the image that each maximum is
    backend.gather_chosen(View<const std::int32_t>(chosen), ins, x, outs);  // outs[j][i, q] = x outs + ins[j][i, chosen[i, q]]
    // The adjoint, x = 0 or 1; chosen by these windows, so that a backend may ask which of them see a pixel.
    backend.scatter_chosen(View<const std::int32_t>(chosen), windows, ins, x, outs);
    backend.add_channels(outs, ins);  // outs[j][i, (c, q)] += ins[j][0, c]
    backend.sum_channels(ins, outs);  // outs[j][i, c] = sum over q of ins[j][i, (c, q)]
    // Normalisation, its derivative, and steps by channels: see NormShape and cpu/norms.hpp.
    backend.normalize(in, shape, 1.0, out, out);                          // normalized, inverse <- in
    backend.normalize_derivative(in, in, shape, in, true, ins, x, outs);  // outs = x outs + the derivative, times a gain
    backend.affine_channels(ins, ins, ins, shape, x, outs);               // outs = x outs + gain in + shift
    backend.sum_channels_of(ins, in, shape, x, outs);                     // outs = x outs + sums of ins in over a channel
    // Bytes that are free; bytes that a block of samples' and vectors' tangents may take, and numbers that patches may, at a time.
    { backend.available_memory() } -> std::same_as<double>;
    requires std::same_as<decltype(B::block_bytes), const double> && std::same_as<decltype(B::patch_numbers), const double>;
    // The two contractions of the factored product: rows (n r, m), per vector tangents t (n, m) and u (n, r).
    backend.contract_out(in, i, ins, outs);  // u[j][a, c] += <rows[a, c, :], t[j][a, :]>
    backend.contract_in(in, i, ins, outs);   // t[j][a, :] = sum_c u[j][a, c] rows[a, c, :]
    // That product in one go, by a backend's own kernels, from layers packed for it once; 0 bytes where it has none.
    requires std::constructible_from<typename B::template factored<T>, std::span<const FactoredTerm<T>>, index>;
    { B::template factored<T>::bytes(i, i, i, i) } -> std::same_as<double>;         // of a layer: n, fan_in, fan_out, r
    { B::template factored<T>::workspace_bytes(i, i, i) } -> std::same_as<double>;  // n, r, vectors
    { product.product(in, out) } -> std::same_as<bool>;                             // false: not finite
    // The loss and the Gram matrix.
    backend.loss_prepare(Loss::mse, in, out);
    backend.loss_hessian(Loss::mse, in, x, outs);
    backend.loss_factor(Loss::mse, in, true, x, out);
    backend.gram_lower(terms, i, out, i, i);  // rows of samples [first, last) of the lower triangle
    { B::gram_tile_samples(i, i) } -> std::same_as<index>;
    // out[i, :] = first[i] in[i, :] + second[i] out[i, :], host scalars for each row; what is multiplied by 0 is not read.
    backend.combine_rows(std::span<const double>(host), in, std::span<const double>(host), out);
    // By scalars in the backend's memory (1, rows): out[i, :] += x factors[i] in[i, :], and rows of the length x from their squares.
    backend.add_rows(0.0, View<const double>(), in, out);
    backend.resize_rows(View<const double>(), 0.0, out);
    // Random matrices: entries depend on (seed, stream, row, column) alone.
    backend.fill_normal(out, std::uint64_t{}, std::uint64_t{}, 1.0);
    backend.fill_uniform(out, std::uint64_t{}, std::uint64_t{}, 0.0, 1.0);
    backend.fill_signs(out, std::uint64_t{}, std::uint64_t{});  // -1 or 1
};

template <class B>
concept Backend =
    BackendFor<B, float> && BackendFor<B, double> && (!B::own_convolutions || (ConvolvingFor<B, float> && ConvolvingFor<B, double>));

}  // namespace gnfast
