// Spectral measures of random vectors: Gauss quadrature by Lanczos, and Chebyshev moments. All probes advance together.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "algo/solvers/probes.hpp"
#include "algo/solvers/small.hpp"

namespace gnfast::solvers {

struct QuadratureOptions {
    index probes = 1;
    index steps = 1;  // nodes a probe, or moments
    index block = 1;  // probes that advance together
    bool reorthogonalize = true;
    index first = 0;  // of the probes: those before it were drawn already
    std::uint64_t seed = 0;
    Monitor monitor;
};

// For each probe sum_j weight_j f(node_j) = v^T f(A) v, v of norm one, exactly for polynomials of degree 2 steps - 1.
struct Quadrature {
    Small nodes, weights;                // (probes, steps); a probe that ended early repeats its last node with weight zero
    Small coarse_nodes, coarse_weights;  // the same from the first half of the steps: how far the rest still moves a result
    Small residuals;                     // (probes, steps), |A y - node y| of each node's vector y: an eigenvalue lies that near
    index products = 0;
};

// Lanczos for each row of the block: A v_j = beta_{j-1} v_{j-1} + alpha_j v_j + beta_j v_{j+1}; nodes and weights are the eigenvalues of
// the tridiagonal T and the squares of its eigenvectors' first entries (Golub & Welsch 1969; Ubaru, Chen & Saad 2017).
// With every v_j kept, w is made orthogonal to all of them once more at each step, which costs 4 j size flops a probe; without, converged
// eigenvalues come back as copies that share the weight of one (Greenbaum 1989).
template <class B, class T>
class LanczosQuadrature {
   public:
    LanczosQuadrature(B& backend, const Apply<T>& apply, index size, const QuadratureOptions& options)
        : backend_(backend), apply_(apply), size_(size), options_(options), steps_(std::min(options.steps, size)) {}

    Quadrature run() {
        const index probes = options_.probes, half = (steps_ + 1) / 2;
        Quadrature out{Small(probes, steps_), Small(probes, steps_), Small(probes, half), Small(probes, half), Small(probes, steps_), 0};
        const index block = std::min(options_.block, options_.probes);
        vectors_ = backend_.template allocate<T>(3 * block * size_);
        if (options_.reorthogonalize) {
            basis_ = backend_.template allocate<T>(block * steps_ * size_);
            coefficients_ = backend_.template allocate<T>(block * steps_);
        }
        for (index first = 0; first < options_.probes; first += block) {
            const index s = std::min(block, options_.probes - first);
            out.products += advance(first, s, double(first) * double(steps_));
            for (index i = 0; i < s; ++i) {
                gauss(i, first + i, out.nodes, out.weights, &out.residuals);
                gauss(i, first + i, out.coarse_nodes, out.coarse_weights, nullptr);
            }
        }
        return out;
    }

   private:
    View<T> vectors(index which, index s) { return {vectors_.data() + which * s * size_, s, size_}; }

    index advance(index first, index s, double done) {
        alpha_ = beta_ = Small(s, steps_);
        length_.assign(static_cast<std::size_t>(s), steps_);
        std::vector<double> scale(static_cast<std::size_t>(s), 1 / std::sqrt(double(size_))), norm(static_cast<std::size_t>(s));
        const std::vector<double> zero(static_cast<std::size_t>(s)), one(static_cast<std::size_t>(s), 1.0);
        const auto numbers = backend_.template allocate<double>(2 * s);
        const View<double> both(numbers.data(), 2, s), along = both.row_range(0, 1), squares = both.row_range(1, 1);
        std::vector<double> room;
        index previous = 0, now = 1, next = 2;
        backend_.fill(vectors(previous, s), T(0));
        fill_probes(backend_, Probe::signs, options_.seed, options_.first + first, vectors(now, s));
        backend_.combine_rows(zero, View<const T>(vectors(now, s)), scale, vectors(now, s));
        std::vector<double> factor(static_cast<std::size_t>(s)), behind(static_cast<std::size_t>(s));
        for (index j = 0; j < steps_; ++j) {
            const View<T> v = vectors(now, s), w = vectors(next, s);
            apply_(View<const T>(v), w);
            backend_.row_dots(View<const T>(v), View<const T>(w), along);
            backend_.add_rows(-1.0, View<const double>(along), View<const T>(v), w);
            for (index i = 0; i < s; ++i) behind[static_cast<std::size_t>(i)] = j > 0 ? -beta_(i, j - 1) : 0;
            backend_.combine_rows(behind, View<const T>(vectors(previous, s)), one, w);
            if (options_.reorthogonalize) orthogonalize(v, w, j);
            backend_.row_dots(View<const T>(w), View<const T>(w), squares);
            const View<const double> host = backend_.on_host(View<const double>(both), room);
            bool going = false;
            for (index i = 0; i < s; ++i) {
                const auto at = static_cast<std::size_t>(i);
                alpha_(i, j) = host.row(0)[i];
                double beta = std::sqrt(host.row(1)[i]);
                if (!std::isfinite(alpha_(i, j)) || !std::isfinite(beta)) throw nonfinite_error(nonfinite_product);
                norm[at] = std::max(norm[at], std::abs(alpha_(i, j)) + beta - behind[at]);
                // An invariant subspace: the rest is rounding (of a product, some eps |A| sqrt(size)). The probe goes on as zeros.
                if (beta <= std::max(64.0, std::sqrt(double(size_))) * apply_.resolution * norm[at]) {
                    length_[at] = std::min(length_[at], j + 1);
                    beta = 0;
                }
                beta_(i, j) = beta;
                factor[at] = beta > 0 ? 1 / beta : 0;
                going = going || beta > 0;
            }
            report(options_.monitor, "quadrature", done + double((j + 1) * s), double(options_.probes) * double(steps_));
            if (!going) return (j + 1) * s;
            backend_.combine_rows(zero, View<const T>(w), factor, w);
            std::swap(previous, now), std::swap(now, next);
        }
        return steps_ * s;
    }

    // Keeps v as row j of each probe's basis; w -= (w V^T) V.
    void orthogonalize(View<const T> v, View<T> w, index j) {
        [[maybe_unused]] const auto exact = backend_.full_precision();
        const index s = v.rows, step = steps_ * size_;
        for (index i = 0; i < s; ++i) backend_.copy(v.row_range(i, 1), View<T>(basis_.data() + i * step + j * size_, 1, size_));
        const Batch<const T> basis(View<const T>(basis_.data(), j + 1, size_), s, step);
        const Batch<T> rows(View<T>(w.data, 1, size_), s, w.stride), c(View<T>(coefficients_.data(), 1, j + 1), s, steps_);
        backend_.gemm_batch(Op::none, Op::transpose, T(1), Batch<const T>(rows), basis, T(0), c);
        backend_.gemm_batch(Op::none, Op::none, T(-1), Batch<const T>(c), basis, T(1), rows);
    }

    void gauss(index i, index probe, Small& nodes, Small& weights, Small* residuals) {
        const index m = std::min(length_[static_cast<std::size_t>(i)], nodes.cols);
        std::vector<double> t(static_cast<std::size_t>(m * m)), values;
        for (index j = 0; j < m; ++j) {
            t[static_cast<std::size_t>(j * m + j)] = alpha_(i, j);
            if (j + 1 < m) t[static_cast<std::size_t>((j + 1) * m + j)] = t[static_cast<std::size_t>(j * m + j + 1)] = beta_(i, j);
        }
        backend_.small_eigh(t, m, values);
        for (index j = 0; j < nodes.cols; ++j) {
            const index from = std::min(j, m - 1);
            const double first = t[static_cast<std::size_t>(from * m)];
            nodes(probe, j) = values[static_cast<std::size_t>(from)];
            weights(probe, j) = j < m ? first * first : 0;
            // What the recurrence leaves beyond its last vector: beta_m times the eigenvector's last entry.
            if (residuals) (*residuals)(probe, j) = beta_(i, m - 1) * std::abs(t[static_cast<std::size_t>(from * m + m - 1)]);
        }
    }

    using Buffer = typename B::template buffer<T>;
    B& backend_;
    const Apply<T>& apply_;
    index size_;
    QuadratureOptions options_;
    index steps_;
    Buffer vectors_, basis_, coefficients_;
    Small alpha_, beta_;
    std::vector<index> length_;
};

// v^T T_k(S) v for each probe v of norm one, k = 0 ... steps - 1, S = (A - centre I) / half with its spectrum in [-1, 1]. Two moments a
// product: T_2k = 2 T_k^2 - T_0, T_2k+1 = 2 T_k+1 T_k - T_1 (Weisse, Wellein, Alvermann & Fehske 2006).
template <class B, class T>
Small chebyshev_moments(B& backend, const Apply<T>& apply, index size, double centre, double half, const QuadratureOptions& options) {
    const index count = options.steps, block = std::min(options.block, options.probes);
    Small moments(options.probes, count);
    auto buffer = backend.template allocate<T>(3 * block * size);
    for (index first = 0; first < options.probes; first += block) {
        const index s = std::min(block, options.probes - first);
        const auto vectors = [&](index which) { return View<T>(buffer.data() + which * s * size, s, size); };
        const auto all = [s](double x) { return std::vector<double>(static_cast<std::size_t>(s), x); };
        const auto numbers = backend.template allocate<double>(2 * s);
        std::vector<double> room;
        // Moments k and k + 1: factor a b - M_0, factor a c - M_1.
        const auto set = [&](index k, double factor, View<const T> a, View<const T> b, View<const T> c) {
            const View<double> both(numbers.data(), k + 1 < count ? 2 : 1, s);
            backend.row_dots(a, b, both.row_range(0, 1));
            if (both.rows == 2) backend.row_dots(a, c, both.row_range(1, 1));
            const View<const double> host = backend.on_host(View<const double>(both), room);
            for (index m = 0; m < both.rows; ++m)
                for (index i = 0; i < s; ++i) {
                    const double value = host.row(m)[i];
                    if (!std::isfinite(value)) throw nonfinite_error(nonfinite_product);
                    moments(first + i, k + m) = factor * value - (k > 0 ? moments(first + i, m) : 0);
                }
        };
        index previous = 0, now = 1, next = 2;
        fill_probes(backend, Probe::signs, options.seed, first, vectors(previous));
        backend.combine_rows(all(0), View<const T>(vectors(previous)), all(1 / std::sqrt(double(size))), vectors(previous));
        const View<T> start = vectors(previous), one = vectors(now);
        apply(View<const T>(start), one);
        backend.combine_rows(all(-centre / half), View<const T>(start), all(1 / half), one);
        set(0, 1, View<const T>(start), View<const T>(start), View<const T>(one));
        for (index k = 1; 2 * k < count; ++k) {
            const View<T> t = vectors(now), w = vectors(next);
            if (2 * k + 1 >= count) {
                set(2 * k, 2, View<const T>(t), View<const T>(t), View<const T>(t));
                break;
            }
            apply(View<const T>(t), w);
            backend.combine_rows(all(-2 * centre / half), View<const T>(t), all(2 / half), w);
            backend.combine_rows(all(-1), View<const T>(vectors(previous)), all(1), w);
            set(2 * k, 2, View<const T>(t), View<const T>(t), View<const T>(w));
            report(options.monitor, "moments", double(first) * double(count) + double(2 * k * s), double(options.probes) * double(count));
            std::swap(previous, now), std::swap(now, next);
        }
    }
    return moments;
}

}  // namespace gnfast::solvers
