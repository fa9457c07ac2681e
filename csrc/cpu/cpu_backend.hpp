// The verbs on the CPU: SciPy's BLAS on one thread each inside OpenMP loops, and the kernels of kernels.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "core/backend.hpp"
#include "core/elimination.hpp"
#include "cpu/buffer.hpp"
#include "cpu/calls.hpp"
#include "cpu/factored.hpp"
#include "cpu/gram_tiles.hpp"
#include "cpu/images.hpp"
#include "cpu/kernels.hpp"
#include "cpu/neurons.hpp"
#include "cpu/norms.hpp"
#include "cpu/packed.hpp"
#include "cpu/small_eigh.hpp"
#include "cpu/symmetric.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu {

class CpuBackend {
   public:
    template <class T>
    using buffer = Buffer<T>;
    template <class T>
    using factored = Factored<T>;
    template <class T>
    using packed = Packed<T>;

    // A block's tangent should stay near the last-level cache: 15 vectors of 1 MiB were 6 % slower than 8 on 32 MiB of it. Patches should
    // still be near when they are multiplied.
    static constexpr double block_bytes = 32.0 * 1024 * 1024, patch_numbers = 1 << 19;
    static constexpr bool own_convolutions = false;  // its patches stay in the cache

    template <class T>
    Buffer<T> allocate(index size) {
        return Buffer<T>(size);
    }

    template <class T>
    void fill(View<T> out, T value) {
        parallel_rows(out.rows, out.cols, [&](index i) { std::fill_n(out.row(i), out.cols, value); });
    }

    // Also from one precision to the other.
    template <class S, class T>
    void copy(View<const S> in, View<T> out) {
        parallel_rows(out.rows, out.cols,
                      [&](index i) { std::transform(in.row(i), in.row(i) + in.cols, out.row(i), [](S x) { return static_cast<T>(x); }); });
    }

    // Memory is the host's already: the view itself, and `room` is not needed.
    template <class T>
    View<const T> on_host(View<const T> in, std::vector<T>&) {
        return in;
    }
    template <class S, class T>
    void from_host(View<const S> in, View<T> out) {
        copy(in, out);
    }

    // Products are as precise as their numbers.
    struct FullPrecision {};
    FullPrecision full_precision() { return {}; }
    template <class T>
    double resolution() {
        return std::numeric_limits<T>::epsilon();
    }

    // out = alpha op(a) op(b) + beta out, split over the threads by the longer side of out, or, when out is small
    // and the inner length long (projections of long vectors), by the inner length with a sum in fixed order.
    template <class T>
    void gemm(Op op_a, Op op_b, T alpha, View<const T> a, View<const T> b, T beta, View<T> out) {
        const index inner = op_a == Op::none ? a.cols : a.rows;
        const index threads = num_threads();
        if (threads > 1 && out.rows * out.cols * 16 < inner && inner > 4096)
            return gemm_by_inner(op_a, op_b, alpha, a, b, beta, out, inner);
        gemm_batch(op_a, op_b, alpha, Batch<const T>(a, 1, 0), Batch<const T>(b, 1, 0), beta, Batch<T>(out, 1, 0));
    }

    // Members are spread over the threads whole; when their number does not divide evenly each is cut as well.
    template <class T>
    void gemm_batch(Op op_a, Op op_b, T alpha, Batch<const T> a, Batch<const T> b, T beta, Batch<T> out) {
        const index rows = out.first.rows, cols = out.first.cols, inner = op_a == Op::none ? a.first.cols : a.first.rows;
        if (rows == 0 || cols == 0) return;
        const double flops = 2.0 * double(rows) * double(cols) * double(inner);
        const index threads = flops * double(out.count) < parallel_flops ? 1 : num_threads();
        const bool even = out.count % threads == 0 || out.count >= 8 * threads;
        const bool by_rows = rows >= cols;
        const index parts = even ? 1 : std::min<index>(threads, std::max<index>(1, (by_rows ? rows : cols) / 8));
        const auto one = [&](index task) {
            const index j = task / parts, part = task % parts, length = by_rows ? rows : cols;
            // Cuts on multiples of 8 keep the kernels' blocks whole.
            const index first = part == 0 ? 0 : length * part / parts / 8 * 8;
            const index last = part + 1 == parts ? length : length * (part + 1) / parts / 8 * 8;
            View<const T> x = a[j], y = b[j];
            View<T> z = out[j];
            if (by_rows) {
                x = op_a == Op::none ? x.row_range(first, last - first) : x.block(0, x.rows, first, last - first);
                z = z.row_range(first, last - first);
            } else {
                y = op_b == Op::none ? y.block(0, y.rows, first, last - first) : y.row_range(first, last - first);
                z = z.block(0, z.rows, first, last - first);
            }
            multiply(op_a, op_b, alpha, x, y, beta, z);
        };
        if (threads == 1) {
            const SingleThreadedBlas guard;
            for (index task = 0; task < out.count * parts; ++task) one(task);
        } else {
            parallel_for(out.count * parts, one);
        }
    }

    // Whole members on one thread each; sums over i one after another, cut by rows of out where there are few j.
    template <class T>
    void gemm_grid(Op op_a, Op op_b, T alpha, Grid<const T> a, Grid<const T> b, T beta, Grid<T> out) {
        const index rows = out.first.rows, inner = op_a == Op::none ? a.first.cols : a.first.rows;
        if (rows == 0 || out.first.cols == 0) return;
        const double flops = 2.0 * double(rows) * double(out.first.cols) * double(inner) * double(out.outer * out.inner);
        const index threads = flops < parallel_flops ? 1 : num_threads();
        const bool sum = out.inner_step == 0 && out.inner > 1;
        const index members = sum ? out.outer : out.outer * out.inner;
        const bool even = members % threads == 0 || members >= 8 * threads;
        const index parts = even ? 1 : std::min(threads, ceil_div(rows, 8));
        const auto one = [&](index task) {
            const index member = task / parts, first = rows * (task % parts) / parts, last = rows * (task % parts + 1) / parts;
            const auto single = [&](index j, index i, T keep) {
                View<const T> x = a.at(j, i);
                x = op_a == Op::none ? x.row_range(first, last - first) : x.block(0, x.rows, first, last - first);
                call::gemm(op_a, op_b, alpha, x, b.at(j, i), keep, out.at(j, i).row_range(first, last - first));
            };
            // Vectors next to each other share b, which stays in the cache.
            if (!sum) return single(member % out.outer, member / out.outer, beta);
            for (index i = 0; i < out.inner; ++i) single(member, i, i == 0 ? beta : T(1));
        };
        if (threads == 1) {
            const SingleThreadedBlas guard;
            for (index task = 0; task < members * parts; ++task) one(task);
        } else {
            parallel_for(members * parts, one);
        }
    }

    template <class T>
    void syrk(View<const T> a, View<T> out) {
        symmetric::product(a, out);
    }

    template <class T>
    void symm_lower(View<const T> lower, View<const T> v, View<T> out) {
        symmetric::multiply(lower, v, out);
    }

    template <class T>
    Asymmetry asymmetry(View<const T> a) {
        return symmetric::asymmetry(a);
    }

    template <class T>
    index cholesky(View<T> a) {
        return symmetric::cholesky(a);
    }

    template <class T>
    void cholesky_solve(View<const T> lower, View<T> rhs) {
        symmetric::cholesky_solve(lower, rhs);
    }

    template <class T>
    void kronecker_sum(View<const T> p, std::span<const Packed<T>> b, View<const T> v, View<T> out) {
        cpu::kronecker_sum(p, b, v, out);
    }

    void small_eigh(std::vector<double>& a, index size, std::vector<double>& w) { cpu::small_eigh(a, size, w); }

    template <class T>
    void orthonormal_factor(View<const T> gram, double floor, double cut, bool drop, View<T> to, View<double> from, View<double> marks) {
        const Buffer<double> room(elimination::room(gram.rows));
        elimination::orthonormal(elimination::OneThread{}, room.data(), gram, floor, cut, drop, to, from, marks);
    }

    template <class T>
    void semidefinite_inverse(View<const T> a, double largest, double rounding, View<T> out, View<double> marks) {
        const Buffer<double> room(elimination::room(a.rows));
        elimination::inverse(elimination::OneThread{}, room.data(), a, largest, rounding, out, marks);
    }

    template <class T>
    void row_dots(View<const T> a, View<const T> b, View<double> out) {
        parallel_for(a.rows, [&](index i) {
            double total = 0;
            for (index q = 0; q < a.cols; ++q) total += double(a.row(i)[q]) * double(b.row(i)[q]);
            out.data[i] = total;
        });
    }
    template <class T>
    void row_dots(View<const T> a, View<const T> b, std::vector<double>& out) {
        out.resize(static_cast<std::size_t>(a.rows));
        row_dots(a, b, View<double>(out.data(), 1, a.rows));
    }

    template <class T>
    void add_rows(double scale, View<const double> factors, View<const T> in, View<T> out) {
        parallel_rows(out.rows, out.cols,
                      [&](index i) { kernels::combine(T(scale * factors.data[i]), in.row(i), T(1), out.row(i), out.cols); });
    }

    template <class T>
    void resize_rows(View<const double> squares, double length, View<T> x) {
        parallel_rows(x.rows, x.cols, [&](index i) {
            const T factor = T(squares.data[i] > 0 ? length / std::sqrt(squares.data[i]) : 0);
            for (index q = 0; q < x.cols; ++q) x.row(i)[q] *= factor;
        });
    }

    // out[i] = alphas[i] in[i] + betas[i] out[i], a scalar pair for each row.
    template <class T>
    void combine_rows(std::span<const double> alphas, View<const T> in, std::span<const double> betas, View<T> out) {
        parallel_rows(out.rows, out.cols, [&](index i) {
            const auto at = static_cast<std::size_t>(i);
            kernels::combine(T(alphas[at]), in.row(i), T(betas[at]), out.row(i), out.cols);
        });
    }

    // value, derivative <- f(z), elementwise; value may be z itself.
    template <class T, class F>
    void apply(F f, View<const T> z, View<T> value, View<T> derivative) {
        parallel_rows(z.rows, z.cols * 8, [&](index i) {
            const T* in = z.row(i);
            T *v = value.row(i), *d = derivative.row(i);
            for (index q = 0; q < z.cols; ++q) f(in[q], v[q], d[q]);
        });
    }

    template <class T>
    void multiply_rows(Batch<T> x, View<const T> d) {
        parallel_rows(x.count * d.rows, d.cols,
                      [&](index row) { kernels::multiply(d.row(row % d.rows), x[row / d.rows].row(row % d.rows), d.cols); });
    }

    // As multiply_rows, with `group` consecutive rows of x for each row of d.
    template <class T>
    void multiply_row_groups(View<T> x, View<const T> d, index group) {
        parallel_rows(x.rows, x.cols, [&](index row) { kernels::multiply(d.row(row / group), x.row(row), x.cols); });
    }

    template <class T>
    void add_row(Batch<T> x, Batch<const T> row) {
        parallel_rows(x.count * x.first.rows, x.first.cols, [&](index at) {
            const T* b = row[at / x.first.rows].data;
            T* p = x[at / x.first.rows].row(at % x.first.rows);
            for (index q = 0; q < x.first.cols; ++q) p[q] += b[q];
        });
    }

    template <class T>
    void sum_rows(Batch<const T> x, T beta, Batch<T> out) {
        parallel_for(x.count, [&](index j) {
            T* z = out[j].data;
            if (beta == T(0)) std::fill_n(z, x.first.cols, T(0));
            for (index i = 0; i < x.first.rows; ++i) {
                const T* p = x[j].row(i);
                for (index q = 0; q < x.first.cols; ++q) z[q] += p[q];
            }
        });
    }

    // out[j] = in[j]^T
    template <class T>
    void transpose(Batch<const T> in, Batch<T> out) {
        parallel_for(in.count, [&](index j) {
            for (index a = 0; a < in.first.rows; ++a)
                for (index b = 0; b < in.first.cols; ++b) out[j].row(b)[a] = in[j].row(a)[b];
        });
    }

    // out += a * b, elementwise
    template <class T>
    void add_product(View<const T> a, View<const T> b, View<T> out) {
        parallel_rows(out.rows, out.cols, [&](index i) { kernels::multiply_accumulate(a.row(i), b.row(i), out.row(i), out.cols); });
    }

    template <class T>
    void scale_add(T alpha, View<const T> in, T beta, View<T> out) {
        parallel_rows(out.rows, out.cols, [&](index i) { kernels::combine(alpha, in.row(i), beta, out.row(i), out.cols); });
    }

    template <class T>
    void gather_patches(View<const T> images, const Windows& windows, View<T> patches) {
        images::gather_patches(images, windows, patches);
    }
    template <class T>
    void scatter_patches(View<const T> patches, const Windows& windows, T beta, View<T> images) {
        images::scatter_patches(patches, windows, beta, images);
    }
    template <class T>
    void pool_average(View<const T> images, const Windows& windows, T beta, View<T> out) {
        images::pool_average(images, windows, beta, out);
    }
    template <class T>
    void spread_average(View<const T> g, const Windows& windows, T beta, View<T> images) {
        images::spread_average(g, windows, beta, images);
    }
    template <class T>
    void pool_max(View<const T> images, const Windows& windows, View<T> out, View<std::int32_t> chosen) {
        images::pool_max(images, windows, out, chosen);
    }
    template <class T>
    void gather_chosen(View<const std::int32_t> chosen, Batch<const T> t, T beta, Batch<T> out) {
        images::gather_chosen(chosen, t, beta, out);
    }
    template <class T>
    void scatter_chosen(View<const std::int32_t> chosen, const Windows&, Batch<const T> g, T beta, Batch<T> t) {
        images::scatter_chosen(chosen, g, beta, t);
    }
    template <class T>
    void add_channels(Batch<T> x, Batch<const T> b) {
        images::add_channels(x, b);
    }
    template <class T>
    void sum_channels(Batch<const T> x, Batch<T> out) {
        images::sum_channels(x, out);
    }

    double available_memory() { return cpu::available_memory(); }

    template <class T>
    void add_diagonal(View<T> out, T value) {
        for (index i = 0; i < std::min(out.rows, out.cols); ++i) out.row(i)[i] += value;
    }

    // flops 2 n r m s each; the rows are read once for all s vectors of the block.
    template <class T>
    void contract_out(View<const T> rows, index r, Batch<const T> t, Batch<T> u) {
        parallel_ranges(t.first.rows, 1, [&](index first, index count) {
            for (index i = first; i < first + count; ++i)
                kernels::contract_out(rows.row(i * r), rows.stride, r, rows.cols, t.first.row(i), t.step, t.count,
                                      kernels::Strided<T>{u.first.row(i), u.step, 1});
        });
    }

    template <class T>
    void contract_in(View<const T> rows, index r, Batch<const T> u, Batch<T> out) {
        parallel_ranges(out.first.rows, 1, [&](index first, index count) {
            for (index i = first; i < first + count; ++i)
                kernels::contract_in(rows.row(i * r), rows.stride, r, rows.cols, kernels::Strided<const T>{u.first.row(i), u.step, 1},
                                     u.count, T(0), out.first.row(i), out.step);
        });
    }

    template <class T>
    void loss_prepare(Loss loss, View<const T> outputs, View<T> kept) {
        parallel_rows(outputs.rows, outputs.cols * 8, [&](index i) { loss::prepare(loss, outputs.row(i), outputs.cols, kept.row(i)); });
    }

    // u[j] <- scale H u[j]; kept may be empty for losses with H = I.
    template <class T>
    void loss_hessian(Loss loss, View<const T> kept, T scale, Batch<T> u) {
        const index n = u.first.rows, k = u.first.cols;
        parallel_rows(u.count * n, k, [&](index at) {
            loss::hessian_product(loss, kept.data ? kept.row(at % n) : nullptr, k, scale, u[at / n].row(at % n));
        });
    }

    template <class T>
    void loss_factor(Loss loss, View<const T> kept, bool reduced, T scale, View<T> rows) {
        const index k = rows.cols, r = loss::factor_rank(loss, k, reduced);
        parallel_rows(rows.rows / r, r * k,
                      [&](index i) { loss::factor_rows(loss, kept.data ? kept.row(i) : nullptr, k, reduced, scale, rows.row(i * r)); });
    }

    template <class T>
    void normalize(View<const T> x, const NormShape& shape, double eps, View<T> normalized, View<T> inverse) {
        norms::normalize(x, shape, eps, normalized, inverse);
    }
    template <class T>
    void normalize_derivative(View<const T> normalized, View<const T> inverse, const NormShape& shape, View<const T> gain, bool gain_first,
                              Batch<const T> in, T beta, Batch<T> out) {
        norms::normalize_derivative(normalized, inverse, shape, gain, gain_first, in, beta, out);
    }
    template <class T>
    void affine_channels(Batch<const T> x, Batch<const T> gain, Batch<const T> shift, const NormShape& shape, T beta, Batch<T> out) {
        norms::affine_channels(x, gain, shift, shape, beta, out);
    }
    template <class T>
    void sum_channels_of(Batch<const T> g, View<const T> x, const NormShape& shape, T beta, Batch<T> out) {
        norms::sum_channels_of(g, x, shape, beta, out);
    }

    // The lower triangle of K, tile by tile: for each layer both Gram factors of the tile are formed and multiplied
    // while it is in cache. N^2 sum(fan_out) flops for N = n r; no other N x N array.
    // Rows [first, last) of samples only, so that the caller can report progress between calls.
    template <class T>
    void gram_lower(std::span<const GramTerm<T>> terms, index r, View<T> out, index first, index last) {
        gram::lower(terms, r, out, first, last, gram_tile_samples(out.rows / r, r));
    }

    // Samples in a tile of the Gram: about 512 rows, fewer where that would leave the threads idle.
    static index gram_tile_samples(index n, index r) {
        const index rows = n * r >= 4096 ? 512 : 192;
        return std::max<index>(1, std::min(n, rows / r));
    }

    template <class T>
    void fill_normal(View<T> out, std::uint64_t seed, std::uint64_t stream, double scale) {
        parallel_rows(out.rows, out.cols * 32,
                      [&](index i) { kernels::normal_row(seed, stream, static_cast<std::uint64_t>(i), 0, scale, out.row(i), out.cols); });
    }

    template <class T>
    void fill_uniform(View<T> out, std::uint64_t seed, std::uint64_t stream, double low, double high) {
        parallel_rows(out.rows, out.cols * 16,
                      [&](index i) { kernels::uniform_row(seed, stream, static_cast<std::uint64_t>(i), low, high, out.row(i), out.cols); });
    }

    template <class T>
    void fill_signs(View<T> out, std::uint64_t seed, std::uint64_t stream) {
        parallel_rows(out.rows, out.cols,
                      [&](index i) { kernels::sign_row(seed, stream, static_cast<std::uint64_t>(i), out.row(i), out.cols); });
    }

    template <class F>
    void neurons_forward(F formula, const Neurons& law, index layer, index first, index last, View<double> sums, View<double> head) {
        neurons::forward(formula, law, layer, first, last, sums, head);
    }

    template <class F>
    void neurons_backward(F formula, const Neurons& law, index layer, index first, index last, View<double> sums) {
        neurons::backward(formula, law, layer, first, last, sums);
    }

   private:
    // Below this a loop costs more to start than it saves (some microseconds).
    static constexpr double parallel_flops = 2e5;
    static constexpr index parallel_elements = 16384;
    static constexpr index thin = 16;

    template <class F>
    static void parallel_rows(index rows, index cost, F&& f) {
        const index grain = std::max<index>(1, parallel_elements / std::max<index>(1, cost));
        parallel_ranges(rows, grain, [&](index first, index count) {
            for (index i = first; i < first + count; ++i) f(i);
        });
    }

    // With a handful of samples a product is a pass over one large matrix, which BLAS would copy into its own layout first:
    // there our own kernels read or write it once. `thin` is a judgement, not a measurement: only 8 samples were measured.
    template <class T>
    static void multiply(Op op_a, Op op_b, T alpha, View<const T> a, View<const T> b, T beta, View<T> out) {
        const bool plain = alpha == T(1) && (beta == T(0) || beta == T(1));
        if (plain && op_a == Op::none && op_b == Op::transpose && a.rows <= thin && b.rows >= 8 * thin) {
            if (beta == T(0))
                for (index i = 0; i < out.rows; ++i) std::fill_n(out.row(i), out.cols, T(0));
            return kernels::contract_out(a.data, a.stride, a.rows, a.cols, b.data, b.stride, b.rows, {out.data, 1, out.stride});
        }
        if (plain && op_a == Op::transpose && op_b == Op::none && a.rows <= thin && b.cols >= 8 * thin)
            return kernels::contract_in(b.data, b.stride, b.rows, b.cols, {a.data, 1, a.stride}, a.cols, beta, out.data, out.stride);
        call::gemm(op_a, op_b, alpha, a, b, beta, out);
    }

    template <class T>
    void gemm_by_inner(Op op_a, Op op_b, T alpha, View<const T> a, View<const T> b, T beta, View<T> out, index inner) {
        const index parts = num_threads(), size = out.rows * out.cols;
        Buffer<T> partial(parts * size);
        parallel_for(parts, [&](index part) {
            const index first = inner * part / parts, count = inner * (part + 1) / parts - first;
            const View<const T> x = op_a == Op::none ? a.block(0, a.rows, first, count) : a.row_range(first, count);
            const View<const T> y = op_b == Op::none ? b.row_range(first, count) : b.block(0, b.rows, first, count);
            call::gemm(op_a, op_b, alpha, x, y, T(0), View<T>(partial.data() + part * size, out.rows, out.cols));
        });
        for (index i = 0; i < out.rows; ++i)
            for (index j = 0; j < out.cols; ++j) {
                T total = beta == T(0) ? T(0) : beta * out.row(i)[j];
                for (index part = 0; part < parts; ++part) total += partial.data()[part * size + i * out.cols + j];
                out.row(i)[j] = total;
            }
    }
};

static_assert(Backend<CpuBackend>);

}  // namespace gnfast::cpu
