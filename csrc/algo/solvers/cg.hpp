// Block conjugate gradients without breakdown (O'Leary 1980; Ji & Li 2017): search directions that have become dependent are dropped.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "algo/solvers/probes.hpp"
#include "algo/solvers/small.hpp"

namespace gnfast::solvers {

struct SolveOptions {
    double damping = 0;
    double tol = 0;  // |b - (A + damping I) x| <= tol |b| for each right-hand side
    index max_iterations = 0;
    Monitor monitor;
    bool rough = false;  // x starts from zero, and the recurrence's residuals are good enough: no product is made for either
};

struct SolveResult {
    std::vector<double> residuals;  // relative, of the equations as they are, not of the recurrence
    index iterations = 0;
    index products = 0;
    bool converged = false;
    std::string reason;
};

template <class B, class T>
class BlockCg {
   public:
    // precondition may be empty.
    BlockCg(B& backend, const Apply<T>& apply, const Apply<T>& precondition, index size, const SolveOptions& options)
        : backend_(backend), apply_(apply), precondition_(precondition), size_(size), options_(options), blocks_(backend, 0) {}

    // Rows of x (s, size) hold a first guess and become the solutions; R = B - (A + d I) X, P spans the preconditioned residuals.
    // Each step: Q = (A + d I) P; X += a P, R -= a Q with a = (R P^T) (P Q^T)^-1; P <- orth(Z - (Z Q^T) (P Q^T)^-1 P).
    SolveResult run(View<const T> b, View<T> x) {
        const index s = b.rows;
        for (auto& buffer : buffers_) buffer = backend_.template allocate<T>(s * size_);
        const View<T> r = part(0, s);
        std::vector<double> norms = finite_dots<B, T>(backend_, b, b);
        for (double& norm : norms) norm = std::sqrt(norm);
        SolveResult result;
        if (options_.rough) {
            backend_.copy(b, r);
            const std::vector<double> none(static_cast<std::size_t>(s));
            backend_.combine_rows(none, b, none, x);
        } else {
            residual(b, View<const T>(x), r, result);
        }
        std::vector<double> now = relative(View<const T>(r), norms);
        index width = directions(View<const T>(r), s, nullptr, 0);
        int restarts = 0;
        while (true) {
            const auto within = [&] { return *std::max_element(now.begin(), now.end()) <= options_.tol; };
            report(options_.monitor, "conjugate gradients", double(result.products), 0);
            const bool last = result.iterations >= options_.max_iterations;
            if (within() || width == 0 || last) {
                // The recurrence drifts from the equations: what is reported is what they give, and a drift is worked off.
                if (!options_.rough) {
                    residual(b, View<const T>(x), r, result);
                    now = relative(View<const T>(r), norms);
                }
                result.converged = within();
                result.reason = result.converged ? "tolerance met"
                                : last           ? "max_iterations reached"
                                                 : "rounding errors leave no direction to go on";
                if (result.converged || last || options_.rough || ++restarts > 3) break;
                width = directions(View<const T>(r), s, nullptr, 0);
                if (width == 0) break;
                continue;
            }
            const View<T> p = part(2, width), q = part(3, width);
            shifted(View<const T>(p), q, result);
            Small pq = blocks_.inner(View<const T>(p), View<const T>(q));
            const Small inverse = inverse_of(pq);
            const Small a = Blocks<B, T>::multiply(blocks_.inner(View<const T>(r), View<const T>(p)), inverse);
            blocks_.combine(1, a, View<const T>(p), 1, x);
            blocks_.combine(-1, a, View<const T>(q), 1, r);
            ++result.iterations;
            now = relative(View<const T>(r), norms);
            width = directions(View<const T>(r), s, &inverse, width);
        }
        result.residuals = now;
        return result;
    }

   private:
    View<T> part(std::size_t which, index rows) { return {buffers_[which].data(), rows, size_}; }

    void shifted(View<const T> v, View<T> out, SolveResult& result) {
        apply_(v, out);
        result.products += v.rows;
        const std::vector<double> d(static_cast<std::size_t>(v.rows), options_.damping), one(static_cast<std::size_t>(v.rows), 1.0);
        backend_.combine_rows(d, v, one, out);
    }

    void residual(View<const T> b, View<const T> x, View<T> r, SolveResult& result) {
        shifted(x, r, result);
        const std::vector<double> one(static_cast<std::size_t>(b.rows), 1.0), minus(static_cast<std::size_t>(b.rows), -1.0);
        backend_.combine_rows(one, b, minus, r);
    }

    std::vector<double> relative(View<const T> r, const std::vector<double>& norms) {
        std::vector<double> squares = finite_dots<B, T>(backend_, r, r);
        for (std::size_t i = 0; i < squares.size(); ++i) squares[i] = norms[i] > 0 ? std::sqrt(squares[i]) / norms[i] : 0;
        return squares;
    }

    // Z = M R, minus its part along the old directions' images, then orthonormal rows in part(2): as many as there are independent ones.
    index directions(View<const T> r, index s, const Small* inverse, index width) {
        const View<T> z = part(1, s);
        if (precondition_)
            precondition_(r, z);
        else
            backend_.copy(r, z);
        if (inverse) {
            const Small c = Blocks<B, T>::multiply(blocks_.inner(View<const T>(z), View<const T>(part(3, width))), *inverse);
            blocks_.combine(-1, c, View<const T>(part(2, width)), 1, z);
        }
        const std::vector<double> squares = finite_dots<B, T>(backend_, z, z);
        std::vector<double> scale(squares.size());
        for (std::size_t i = 0; i < squares.size(); ++i) scale[i] = squares[i] > 0 ? 1 / std::sqrt(squares[i]) : 0;
        // Rows of length one; the eigenvectors of their Gram matrix with eigenvalues above rounding span what is independent.
        Small g = blocks_.inner(View<const T>(z), View<const T>(z));
        for (index i = 0; i < s; ++i)
            for (index j = 0; j < s; ++j) g(i, j) *= scale[static_cast<std::size_t>(i)] * scale[static_cast<std::size_t>(j)];
        std::vector<double> values;
        backend_.small_eigh(g.values, s, values);
        const double cut = 100 * double(s) * double(std::numeric_limits<T>::epsilon());
        index kept = 0;
        Small turn(s, s);
        for (index e = s; e-- > 0;) {
            const double value = values[static_cast<std::size_t>(e)];
            if (value <= cut) break;
            for (index q = 0; q < s; ++q) turn(kept, q) = g(e, q) * scale[static_cast<std::size_t>(q)] / std::sqrt(value);
            ++kept;
        }
        Small rows(kept, s);
        std::copy_n(turn.values.begin(), kept * s, rows.values.begin());
        blocks_.combine(1, rows, View<const T>(z), 0, part(2, kept));
        return kept;
    }

    // (P Q^T)^-1, which is positive definite exactly where A + damping I is on these directions. What is zero up to rounding, as in a
    // singular system that has solutions, is left out.
    Small inverse_of(Small& pq) {
        const index k = pq.rows;
        for (const double value : pq.values)
            if (!std::isfinite(value)) throw std::domain_error(nonfinite_product);
        for (index i = 0; i < k; ++i)
            for (index j = 0; j < i; ++j) pq(i, j) = pq(j, i) = (pq(i, j) + pq(j, i)) / 2;
        std::vector<double> values;
        backend_.small_eigh(pq.values, k, values);
        largest_ = std::max(largest_, values.back());
        const double rounding = 10 * apply_.resolution * largest_;
        if (values.front() < -rounding || largest_ <= 0)
            throw std::domain_error("op + damping I is not positive definite; pass a larger damping");
        Small inverse(k, k);
        for (index e = 0; e < k; ++e) {
            const double value = values[static_cast<std::size_t>(e)];
            for (index i = 0; i < k && value > rounding; ++i)
                for (index j = 0; j < k; ++j) inverse(i, j) += pq(e, i) * pq(e, j) / value;
        }
        return inverse;
    }

    B& backend_;
    const Apply<T>& apply_;
    const Apply<T>& precondition_;
    index size_;
    SolveOptions options_;
    Blocks<B, T> blocks_;
    double largest_ = 0;                         // of v^T (A + damping I) v seen, |v| about 1
    typename B::template buffer<T> buffers_[4];  // R, Z, P, Q
};

}  // namespace gnfast::solvers
