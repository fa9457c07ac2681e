// Block conjugate gradients without breakdown (O'Leary 1980; Ji & Li 2017): search directions that have become dependent are dropped.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "algo/solvers/probes.hpp"
#include "algo/solvers/small.hpp"

namespace gnfast::solvers {

struct SolveOptions {
    double damping = 0;
    double tol = 0;  // |b - (A + damping I) x| <= tol |b| for each right-hand side
    index max_iterations = 0;
    Monitor monitor;
    bool from_zero = true;  // x is no first guess but starts from zero, for which no product is made
    bool rough = false;     // the recurrence's residuals are good enough: no product is made for them
};

struct SolveResult {
    std::vector<double> residuals;  // relative, of the equations as they are, not of the recurrence
    index iterations = 0;
    index products = 0;
    bool converged = false;
    Ended ended = Ended::iterations;
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
        if (options_.from_zero) {
            backend_.copy(b, r);
            const std::vector<double> none(static_cast<std::size_t>(s));
            backend_.combine_rows(none, b, none, x);
        } else {
            residual(b, View<const T>(x), r, result);
            forget_far(b, norms, x, r);
        }
        std::vector<double> now;
        index width = begin(View<const T>(r), norms, now);
        int restarts = 0;
        while (true) {
            const auto within = [&] { return *std::max_element(now.begin(), now.end()) <= options_.tol; };
            report(options_.monitor, "conjugate gradients", double(result.products), 0);
            const bool last = result.iterations >= options_.max_iterations;
            if (within() || width == 0 || last) {
                // The recurrence drifts from the equations: what is reported is what they give, and a drift is worked off.
                if (!options_.rough) {
                    residual(b, View<const T>(x), r, result);
                    now = relative(finite_dots<B, T>(backend_, r, r), norms);
                }
                result.converged = within();
                result.ended = result.converged ? Ended::tolerance : last ? Ended::iterations : Ended::no_direction;
                if (result.converged || last || options_.rough || ++restarts > 3) break;
                width = begin(View<const T>(r), norms, now);
                if (width == 0) break;
                continue;
            }
            // All of the step is under way before the host looks at it.
            Board<B>& board = blocks_.board();
            board.clear();
            const View<T> p = part(2, width), q = part(3, width);
            shifted(View<const T>(p), q, result);
            const View<const T> pq = blocks_.inner(View<const T>(p), View<const T>(q));
            const View<T> inverse = board.template add<T>(width, width), a = board.template add<T>(s, width);
            const View<double> marks = board.template add<double>(1, 2);
            backend_.semidefinite_inverse(pq, largest_, 10 * apply_.resolution, inverse, marks);
            blocks_.combine(1, blocks_.inner(View<const T>(r), View<const T>(p)), View<const T>(inverse), 0, a);
            blocks_.combine(1, View<const T>(a), View<const T>(p), 1, x);
            blocks_.combine(-1, View<const T>(a), View<const T>(q), 1, r);
            const View<const double> squares = blocks_.dots(View<const T>(r), View<const T>(r));
            const Turn turn = directions(View<const T>(r), inverse);
            board.read();
            ++result.iterations;
            check(board[pq], board[marks]);
            now = relative(finite(board[squares].values), norms);
            width = blocks_.rows_of(turn);
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

    // A guess so far off that its rounding would hide b is none: x starts from zero there, and where b is zero it stays so.
    void forget_far(View<const T> b, const std::vector<double>& norms, View<T> x, View<T> r) {
        std::vector<double> squares, from_b(norms.size()), from_guess(norms.size(), 1.0);
        backend_.row_dots(View<const T>(r), View<const T>(r), squares);
        bool any = false;
        for (std::size_t i = 0; i < norms.size(); ++i) {
            if (norms[i] > 0 && std::sqrt(squares[i]) <= norms[i] / std::sqrt(apply_.resolution)) continue;
            from_b[i] = 1, from_guess[i] = 0, any = true;
        }
        if (!any) return;
        backend_.combine_rows(std::vector<double>(norms.size()), b, from_guess, x);
        backend_.combine_rows(from_b, b, from_guess, r);
    }

    // From squares of the rows of R.
    static std::vector<double> relative(std::vector<double> squares, const std::vector<double>& norms) {
        for (std::size_t i = 0; i < squares.size(); ++i) squares[i] = norms[i] > 0 ? std::sqrt(squares[i]) / norms[i] : 0;
        return squares;
    }

    // First directions, their number, and the residuals. Waits.
    index begin(View<const T> r, const std::vector<double>& norms, std::vector<double>& now) {
        Board<B>& board = blocks_.board();
        board.clear();
        const View<const double> squares = blocks_.dots(r, r);
        const Turn turn = directions(r, View<T>());
        board.read();
        now = relative(finite(board[squares].values), norms);
        return blocks_.rows_of(turn);
    }

    // Z = M R, minus its part along the old directions' images, then orthonormal rows in part(2): as many as there are independent ones,
    // which the marks say.
    Turn directions(View<const T> r, View<T> inverse) {
        const index s = r.rows, width = inverse.rows;
        const View<T> z = part(1, s);
        if (precondition_)
            precondition_(r, z);
        else
            backend_.copy(r, z);
        if (width > 0) {
            const View<T> c = blocks_.board().template add<T>(s, width);
            blocks_.combine(1, blocks_.inner(View<const T>(z), View<const T>(part(3, width))), View<const T>(inverse), 0, c);
            blocks_.combine(-1, View<const T>(c), View<const T>(part(2, width)), 1, z);
        }
        return blocks_.turn(View<const T>(z), part(2, s), 0, 100 * double(s) * double(std::numeric_limits<T>::epsilon()), true);
    }

    // Whether P Q^T is positive definite, as it is exactly where A + damping I is on these directions; what is zero up to rounding, as in a
    // singular system that has solutions, was left out of its inverse. What elimination leaves finds out all that its eigenvalues would
    // say, and rounding errors that these would not.
    void check(const Small& pq, const Small& marks) {
        finite(pq.values);
        const index k = pq.rows;
        largest_ = std::max(largest_, marks(0, 1));
        const double rounding = 10 * apply_.resolution * largest_;
        bool indefinite = largest_ <= 0;
        if (!indefinite && marks(0, 0) < -rounding / double(k)) {
            std::vector<double> symmetric(pq.values), values;
            for (index i = 0; i < k; ++i)
                for (index j = 0; j < k; ++j) symmetric[static_cast<std::size_t>(i * k + j)] = (pq(i, j) + pq(j, i)) / 2;
            backend_.small_eigh(symmetric, k, values);
            indefinite = values.front() < -rounding;
        }
        if (indefinite) throw not_positive_definite_error("op + damping I is not positive definite; pass a larger damping");
    }

    B& backend_;
    const Apply<T>& apply_;
    const Apply<T>& precondition_;
    index size_;
    SolveOptions options_;
    Blocks<B, T> blocks_;
    double largest_ = 0;                         // of |P (A + damping I) P^T|_F seen
    typename B::template buffer<T> buffers_[4];  // R, Z, P, Q
};

}  // namespace gnfast::solvers
