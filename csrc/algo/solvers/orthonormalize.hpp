// Orthonormal rows by blocks: against a basis, then among themselves (eigenvectors of their Gram matrix, until they are).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/backend.hpp"

namespace gnfast::solvers {

// Numbers on the host in double, row-major: what every solver projects to.
struct Small {
    index rows = 0, cols = 0;
    std::vector<double> values;

    Small() = default;
    Small(index rows_, index cols_) : rows(rows_), cols(cols_), values(static_cast<std::size_t>(rows_ * cols_)) {}
    double& operator()(index i, index j) { return values[static_cast<std::size_t>(i * cols + j)]; }
    double operator()(index i, index j) const { return values[static_cast<std::size_t>(i * cols + j)]; }
};

// Everything that a solver does with blocks of long vectors, one vector a row: in full precision, whatever products with the operator have.
template <class B, class T>
class Blocks {
   public:
    using Buffer = typename B::template buffer<T>;
    Blocks(B& backend, std::uint64_t seed) : backend_(backend), seed_(seed) {}

    B& backend() { return backend_; }

    // a b^T
    Small inner(View<const T> a, View<const T> b) {
        Small out(a.rows, b.rows);
        if (a.rows == 0 || b.rows == 0) return out;
        [[maybe_unused]] const auto exact = backend_.full_precision();
        const Buffer buffer = backend_.template allocate<T>(a.rows * b.rows);
        backend_.gemm(Op::none, Op::transpose, T(1), a, b, T(0), View<T>(buffer.data(), a.rows, b.rows));
        std::vector<T> room;
        const View<const T> host = backend_.on_host(View<const T>(buffer.data(), a.rows, b.rows), room);
        std::copy_n(host.data, a.rows * b.rows, out.values.begin());
        return out;
    }

    // out = alpha c x + beta out, c (out.rows, x.rows)
    void combine(double alpha, const Small& c, View<const T> x, double beta, View<T> out) {
        if (out.rows == 0) return;
        [[maybe_unused]] const auto exact = backend_.full_precision();
        const Buffer buffer = backend_.template allocate<T>(c.rows * c.cols);
        const View<T> factors(buffer.data(), c.rows, c.cols);
        backend_.from_host(View<const double>(c.values.data(), c.rows, c.cols), factors);
        backend_.gemm(Op::none, Op::none, T(alpha), View<const T>(factors), x, T(beta), out);
    }

    // x <- c x for a small square c.
    void transform(const Small& c, View<T> x) {
        Buffer copy = backend_.template allocate<T>(x.rows * x.cols);
        const View<T> old(copy.data(), x.rows, x.cols);
        backend_.copy(View<const T>(x), old);
        combine(1, c, View<const T>(old), 0, x);
    }

    // x -= (x basis^T) basis, twice ("twice is enough"); returns x basis^T of all passes together.
    Small project_out(View<const T> basis, View<T> x, int passes = 2) {
        Small total(x.rows, basis.rows);
        for (int pass = 0; pass < passes && basis.rows > 0; ++pass) {
            const Small c = inner(View<const T>(x), basis);
            combine(-1, c, basis, 1, x);
            for (std::size_t q = 0; q < c.values.size(); ++q) total.values[q] += c.values[q];
        }
        return total;
    }

    // Rows of x become orthonormal and orthogonal to the basis, to which they already are up to rounding. Returns c with
    // x_before = c x_after (up to what lay below `floor` in norm), the largest directions first. Rows below `floor` are
    // replaced by random ones with zero columns in c: an invariant subspace was found.
    //
    // SVQB (Stathopoulos & Wu 2002): x <- D^-1/2 V^T x for the Gram matrix V D V^T of x, until it is well conditioned.
    Small orthonormalize(View<const T> basis, View<T> x, double floor) {
        const index s = x.rows;
        const double eps = std::numeric_limits<T>::epsilon();
        const double cut = 4 * double(s) * eps;  // the error of the Gram's eigenvalues, the largest of which is 1 to s
        Small back = identity(s);
        for (int pass = 0; pass < 6; ++pass) {
            // What is left of the basis in a short row has grown with it when the row was made one of norm one.
            if (pass > 0) project_out(basis, x, 1);
            replace_short_rows(basis, x, floor, back);
            Small g = inner(View<const T>(x), View<const T>(x));
            // Rows scaled to length one first: a converged direction beside a large one is not lost.
            std::vector<double> length(static_cast<std::size_t>(s)), w;
            for (index i = 0; i < s; ++i) length[static_cast<std::size_t>(i)] = std::sqrt(std::max(g(i, i), 1e-300));
            for (index i = 0; i < s; ++i)
                for (index j = 0; j < s; ++j) g(i, j) /= length[static_cast<std::size_t>(i)] * length[static_cast<std::size_t>(j)];
            backend_.small_eigh(g.values, s, w);
            Small to(s, s), from(s, s);
            for (index i = 0; i < s; ++i) {
                const index e = s - 1 - i;  // eigenvalues ascend
                // Below the cut a direction is not known yet: it stays short, and the next pass sees it by itself.
                const double root = std::sqrt(std::max(w[static_cast<std::size_t>(e)], cut));
                for (index q = 0; q < s; ++q) {
                    to(i, q) = g(e, q) / (root * length[static_cast<std::size_t>(q)]);
                    from(q, i) = g(e, q) * root * length[static_cast<std::size_t>(q)];
                }
            }
            back = multiply(back, from);
            transform(to, x);
            if (pass > 0 && w.front() > 0.25) break;
            floor = 10 * eps / std::sqrt(cut);  // rounding errors of a row of norm one, divided by the least root
        }
        return back;
    }

    void fill_random(View<T> x) { backend_.fill_normal(x, seed_, stream_++, 1.0 / std::sqrt(double(std::max<index>(1, x.cols)))); }

    // A first block: the vectors that the caller starts from, then random ones.
    template <class Options>
    void fill_start(const Options& options, View<T> x) {
        const index given = std::min(options.start_rows, x.rows);
        if (given > 0) backend_.copy(View<const T>(static_cast<const T*>(options.start), given, x.cols), x.row_range(0, given));
        if (given < x.rows) fill_random(x.row_range(given, x.rows - given));
    }

    // Where the sequence of random blocks stands.
    std::uint64_t stream() const { return stream_; }
    void set_stream(std::uint64_t stream) { stream_ = stream; }

    // The leading (size, size) part of a small matrix, and its way back.
    static Small corner(const Small& h, index size) {
        Small out(size, size);
        for (index i = 0; i < size; ++i)
            for (index j = 0; j < size; ++j) out(i, j) = h(i, j);
        return out;
    }
    static void set_corner(Small& h, const std::vector<double>& values, index size) {
        for (index i = 0; i < size; ++i)
            for (index j = 0; j < size; ++j) h(i, j) = values[static_cast<std::size_t>(i * size + j)];
    }

    static Small identity(index s) {
        Small one(s, s);
        for (index i = 0; i < s; ++i) one(i, i) = 1;
        return one;
    }

    static Small multiply(const Small& a, const Small& b) {
        Small c(a.rows, b.cols);
        for (index i = 0; i < a.rows; ++i)
            for (index q = 0; q < a.cols; ++q)
                for (index j = 0; j < b.cols; ++j) c(i, j) += a(i, q) * b(q, j);
        return c;
    }

   private:
    void replace_short_rows(View<const T> basis, View<T> x, double floor, Small& back) {
        std::vector<double> squares;
        backend_.row_dots(View<const T>(x), View<const T>(x), squares);
        for (index i = 0; i < x.rows; ++i) {
            if (std::sqrt(squares[static_cast<std::size_t>(i)]) > floor) continue;
            fill_random(x.row_range(i, 1));
            project_out(basis, x.row_range(i, 1));
            for (index q = 0; q < back.rows; ++q) back(q, i) = 0;
        }
    }

    B& backend_;
    std::uint64_t seed_;
    std::uint64_t stream_ = 0x6c616e63;  // apart from the streams that weights are drawn from
};

}  // namespace gnfast::solvers
