// The verbs on a GPU: cuBLAS and the kernels of kernels.hpp, enqueued on the current stream. They return before they have run, but for
// those that hand numbers to the host, which wait once each: on_host, row_dots into a vector, cholesky, asymmetry.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "core/backend.hpp"
#include "cpu/small_eigh.hpp"
#include "cuda/buffer.hpp"
#include "cuda/calls.hpp"
#include "cuda/gram_tiles.hpp"
#include "cuda/grids.hpp"
#include "cuda/kernels.hpp"
#include "cuda/kernels_symmetric.hpp"
#include "cuda/neurons.hpp"
#include "cuda/packed.hpp"
#include "cuda/precision.hpp"
#include "cuda/runtime.hpp"
#include "cuda/symmetric.hpp"

namespace gnfast::cuda {

class CudaBackend {
   public:
    template <class T>
    using buffer = Buffer<T>;
    template <class T>
    using factored = NotFactored<T>;
    template <class T>
    using packed = Packed<T>;

    // Nothing stays in a cache from one kernel to the next: blocks are as large as fill a GPU many times over, so that few calls and few
    // waits are made, and small beside its memory.
    static constexpr double block_bytes = 1024.0 * 1024 * 1024, patch_numbers = 1 << 26;

    // Below so many rows of weights a product with patches waits for memory, not for arithmetic: see kernels_convolutions.cu. Tensor cores
    // take the patches of any number of rows.
    static constexpr bool own_convolutions = true;
    bool convolves(index rows) const { return rows <= 32 && precision_now() == Precision::highest; }

    template <class T>
    Buffer<T> allocate(index size) {
        return Buffer<T>(size);
    }

    // ------------------------------------------------------------------------------------------ to the host and back
    // Waits.
    template <class T>
    View<const T> on_host(View<const T> in, std::vector<T>& room) {
        room.resize(static_cast<std::size_t>(in.rows * in.cols));
        download(in.data, in.stride, room.data(), in.cols, in.rows, in.cols, sizeof(T));
        return {room.data(), in.rows, in.cols};
    }

    template <class S, class T>
    void from_host(View<const S> in, View<T> out) {
        if constexpr (std::is_same_v<S, T>) return upload(in.data, in.stride, out.data, out.stride, in.rows, in.cols, sizeof(T));
        std::vector<T> room;
        room.reserve(static_cast<std::size_t>(in.rows * in.cols));
        for (index i = 0; i < in.rows; ++i)
            for (index j = 0; j < in.cols; ++j) room.push_back(static_cast<T>(in.row(i)[j]));
        upload(room.data(), in.cols, out.data, out.stride, in.rows, in.cols, sizeof(T));
    }

    template <class T>
    void row_dots(View<const T> a, View<const T> b, View<double> out) {
        const Buffer<double> room(kernels::row_dots_room(a.rows, a.cols));
        kernels::row_dots(current_stream(), a, b, out.data, room.data());
    }
    // Waits.
    template <class T>
    void row_dots(View<const T> a, View<const T> b, std::vector<double>& out) {
        const Buffer<double> dots(a.rows);
        row_dots(a, b, View<double>(dots.data(), 1, a.rows));
        on_host(View<const double>(dots.data(), 1, a.rows), out);
    }

    template <class T>
    void combine_rows(std::span<const double> alphas, View<const T> in, std::span<const double> betas, View<T> out) {
        std::vector<double> both(alphas.begin(), alphas.end());
        both.insert(both.end(), betas.begin(), betas.end());
        const index rows = out.rows;
        const Buffer<double> factors(2 * rows);
        upload(both.data(), 2 * rows, factors.data(), 2 * rows, 1, 2 * rows, sizeof(double));
        kernels::combine_rows(current_stream(), factors.data(), in, factors.data() + rows, out);
    }

    template <class T>
    void add_rows(double scale, View<const double> factors, View<const T> in, View<T> out) {
        kernels::add_rows(current_stream(), scale, factors, in, out);
    }
    template <class T>
    void resize_rows(View<const double> squares, double length, View<T> x) {
        kernels::resize_rows(current_stream(), squares, length, x);
    }

    template <class T>
    void orthonormal_factor(View<const T> gram, double floor, double cut, bool drop, View<T> to, View<double> from, View<double> marks) {
        const Buffer<double> room(kernels::elimination_room(gram.rows));
        kernels::orthonormal_factor(current_stream(), room.data(), gram, floor, cut, drop, to, from, marks);
    }
    template <class T>
    void semidefinite_inverse(View<const T> a, double largest, double rounding, View<T> out, View<double> marks) {
        const Buffer<double> room(kernels::elimination_room(a.rows));
        kernels::semidefinite_inverse(current_stream(), room.data(), a, largest, rounding, out, marks);
    }
    void small_eigh(std::vector<double>& a, index size, std::vector<double>& w) { cpu::small_eigh(a, size, w); }

    // Free memory of the device; what a pool holds unused is not counted.
    double available_memory() { return double(memory_info().free); }

    // ------------------------------------------------------------------------------------------ products and factorisations
    FullPrecision full_precision() { return FullPrecision(); }
    // The rounding of a product in the precision that was chosen: float32's, TensorFloat-32's or bfloat16's.
    template <class T>
    double resolution() {
        if (std::is_same_v<T, double>) return 0x1p-52;
        const Precision now = precision_now();
        return now == Precision::high ? 0x1p-10 : now == Precision::medium ? 0x1p-7 : 0x1p-23;
    }

    template <class T>
    void gemm(Op op_a, Op op_b, T alpha, View<const T> a, View<const T> b, T beta, View<T> out) {
        call::gemm(op_a, op_b, alpha, a, b, beta, out);
    }
    template <class T>
    void gemm_batch(Op op_a, Op op_b, T alpha, Batch<const T> a, Batch<const T> b, T beta, Batch<T> out) {
        call::gemm(op_a, op_b, alpha, a, b, beta, out);
    }
    template <class T>
    void gemm_grid(Op op_a, Op op_b, T alpha, Grid<const T> a, Grid<const T> b, T beta, Grid<T> out) {
        grids::multiply(op_a, op_b, alpha, a, b, beta, out);
    }
    template <class T>
    void syrk(View<const T> a, View<T> out) {
        symmetric::product(a, out);
    }
    template <class T>
    void symm_lower(View<const T> lower, View<const T> v, View<T> out) {
        call::symm(lower, v, out);
    }
    // Waits.
    template <class T>
    Asymmetry asymmetry(View<const T> a) {
        return symmetric::asymmetry(a);
    }
    // Waits.
    template <class T>
    index cholesky(View<T> a) {
        return symmetric::cholesky(a);
    }
    template <class T>
    void cholesky_solve(View<const T> lower, View<T> rhs) {
        call::trsm(Op::transpose, lower, rhs);
        call::trsm(Op::none, lower, rhs);
    }
    template <class T>
    void kronecker_sum(View<const T> p, std::span<const Packed<T>> b, View<const T> v, View<T> out) {
        cuda::kronecker_sum(p, b, v, out);
    }

    // For each sample a product of its (s, m) tangents with its (r, m) rows, all in one batch: 2 n r m s flops, and bound by reading the
    // rows and tangents, n m (r + s) numbers.
    template <class T>
    void contract_out(View<const T> rows, index r, Batch<const T> t, Batch<T> u) {
        const index n = t.first.rows, s = t.count;
        call::gemm(Op::none, Op::transpose, T(1), Batch<const T>(View<const T>(t.first.data, s, t.first.cols, t.step), n, t.first.stride),
                   Batch<const T>(View<const T>(rows.data, r, rows.cols, rows.stride), n, r * rows.stride), T(1),
                   Batch<T>(View<T>(u.first.data, s, r, u.step), n, u.first.stride));
    }
    template <class T>
    void contract_in(View<const T> rows, index r, Batch<const T> u, Batch<T> out) {
        const index n = out.first.rows, s = u.count;
        call::gemm(Op::none, Op::none, T(1), Batch<const T>(View<const T>(u.first.data, s, r, u.step), n, u.first.stride),
                   Batch<const T>(View<const T>(rows.data, r, rows.cols, rows.stride), n, r * rows.stride), T(0),
                   Batch<T>(View<T>(out.first.data, s, out.first.cols, out.step), n, out.first.stride));
    }

    template <class T>
    void gram_lower(std::span<const GramTerm<T>> terms, index r, View<T> out, index first, index last) {
        gram::lower(terms, r, out, first, last);
    }
    static index gram_tile_samples(index n, index r) { return gram::tile_samples(n, r); }

    // ------------------------------------------------------------------------------------------ one kernel each
    template <class T>
    void fill(View<T> out, T value) {
        kernels::fill(current_stream(), out, value);
    }
    template <class S, class T>
    void copy(View<const S> in, View<T> out) {
        kernels::copy(current_stream(), in, out);
    }
    template <class T>
    void transpose(Batch<const T> in, Batch<T> out) {
        kernels::transpose(current_stream(), in, out);
    }
    template <class T, class F>
    void apply(F f, View<const T> z, View<T> value, View<T> derivative) {
        kernels::apply(current_stream(), f, z, value, derivative);
    }
    template <class T>
    void multiply_rows(Batch<T> x, View<const T> d) {
        kernels::multiply_rows(current_stream(), x, d);
    }
    template <class T>
    void multiply_row_groups(View<T> x, View<const T> d, index group) {
        kernels::multiply_row_groups(current_stream(), x, d, group);
    }
    template <class T>
    void add_row(Batch<T> x, Batch<const T> row) {
        kernels::add_row(current_stream(), x, row);
    }
    template <class T>
    void sum_rows(Batch<const T> x, T beta, Batch<T> out) {
        kernels::sum_rows(current_stream(), x, beta, out);
    }
    template <class T>
    void add_product(View<const T> a, View<const T> b, View<T> out) {
        kernels::add_product(current_stream(), a, b, out);
    }
    template <class T>
    void add_diagonal(View<T> out, T value) {
        kernels::add_diagonal(current_stream(), out, value);
    }
    template <class T>
    void scale_add(T alpha, View<const T> in, T beta, View<T> out) {
        kernels::scale_add(current_stream(), alpha, in, beta, out);
    }

    template <class T>
    void gather_patches(View<const T> images, const Windows& windows, View<T> patches) {
        kernels::gather_patches(current_stream(), images, windows, patches);
    }
    template <class T>
    void scatter_patches(View<const T> patches, const Windows& windows, T beta, View<T> images) {
        kernels::scatter_patches(current_stream(), patches, windows, beta, images);
    }
    template <class T>
    void convolve(Grid<const T> weights, Grid<const T> images, const Windows& windows, T beta, Grid<T> out) {
        kernels::convolve(current_stream(), weights, images, windows, beta, out);
    }
    template <class T>
    void convolve_back(Grid<const T> weights, Grid<const T> g, const Windows& windows, T beta, Grid<T> images) {
        kernels::convolve_back(current_stream(), weights, g, windows, beta, images);
    }
    template <class T>
    void pool_average(View<const T> images, const Windows& windows, T beta, View<T> out) {
        kernels::pool_average(current_stream(), images, windows, beta, out);
    }
    template <class T>
    void spread_average(View<const T> g, const Windows& windows, T beta, View<T> images) {
        kernels::spread_average(current_stream(), g, windows, beta, images);
    }
    template <class T>
    void pool_max(View<const T> images, const Windows& windows, View<T> out, View<std::int32_t> chosen) {
        kernels::pool_max(current_stream(), images, windows, out, chosen);
    }
    template <class T>
    void gather_chosen(View<const std::int32_t> chosen, Batch<const T> t, T beta, Batch<T> out) {
        kernels::gather_chosen(current_stream(), chosen, t, beta, out);
    }
    template <class T>
    void scatter_chosen(View<const std::int32_t> chosen, const Windows& windows, Batch<const T> g, T beta, Batch<T> t) {
        kernels::scatter_chosen(current_stream(), chosen, windows, g, beta, t);
    }
    template <class T>
    void add_channels(Batch<T> x, Batch<const T> b) {
        kernels::add_channels(current_stream(), x, b);
    }
    template <class T>
    void sum_channels(Batch<const T> x, Batch<T> out) {
        kernels::sum_channels(current_stream(), x, out);
    }

    template <class T>
    void normalize(View<const T> x, const NormShape& shape, double eps, View<T> normalized, View<T> inverse) {
        kernels::normalize(current_stream(), x, shape, eps, normalized, inverse);
    }
    template <class T>
    void normalize_derivative(View<const T> normalized, View<const T> inverse, const NormShape& shape, View<const T> gain, bool gain_first,
                              Batch<const T> in, T beta, Batch<T> out) {
        kernels::normalize_derivative(current_stream(), normalized, inverse, shape, gain, gain_first, in, beta, out);
    }
    template <class T>
    void affine_channels(Batch<const T> x, Batch<const T> gain, Batch<const T> shift, const NormShape& shape, T beta, Batch<T> out) {
        kernels::affine_channels(current_stream(), x, gain, shift, shape, beta, out);
    }
    template <class T>
    void sum_channels_of(Batch<const T> g, View<const T> x, const NormShape& shape, T beta, Batch<T> out) {
        kernels::sum_channels_of(current_stream(), g, x, shape, beta, out);
    }

    template <class T>
    void loss_prepare(Loss loss, View<const T> outputs, View<T> kept) {
        kernels::loss_prepare(current_stream(), loss, outputs, kept);
    }
    template <class T>
    void loss_hessian(Loss loss, View<const T> kept, T scale, Batch<T> u) {
        kernels::loss_hessian(current_stream(), loss, kept, scale, u);
    }
    template <class T>
    void loss_factor(Loss loss, View<const T> kept, bool reduced, T scale, View<T> rows) {
        kernels::loss_factor(current_stream(), loss, kept, reduced, scale, rows);
    }

    template <class T>
    void fill_normal(View<T> out, std::uint64_t seed, std::uint64_t stream, double scale) {
        kernels::fill_normal(current_stream(), out, seed, stream, scale);
    }
    template <class T>
    void fill_uniform(View<T> out, std::uint64_t seed, std::uint64_t stream, double low, double high) {
        kernels::fill_uniform(current_stream(), out, seed, stream, low, high);
    }
    template <class T>
    void fill_signs(View<T> out, std::uint64_t seed, std::uint64_t stream) {
        kernels::fill_signs(current_stream(), out, seed, stream);
    }

    // ------------------------------------------------------------------------------------------ networks without weights. These wait.
    template <class F>
    void neurons_forward(F formula, const Neurons& law, index layer, index first, index last, View<double> sums, View<double> head) {
        neurons::forward(formula, law, layer, first, last, sums, head);
    }
    template <class F>
    void neurons_backward(F formula, const Neurons& law, index layer, index first, index last, View<double> sums) {
        neurons::backward(formula, law, layer, first, last, sums);
    }
};

static_assert(Backend<CudaBackend>);

}  // namespace gnfast::cuda
