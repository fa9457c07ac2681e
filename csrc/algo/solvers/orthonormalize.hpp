// Orthonormal rows by blocks: against a basis, then among themselves (elimination on their Gram matrix, until they are).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "algo/solvers/board.hpp"
#include "algo/solvers/options.hpp"

namespace gnfast::solvers {

// How rows x have become y: x = from y; see elimination::orthonormal. On the board, as are the marks.
struct Turn {
    View<double> from, marks;
};

// Everything that a solver does with blocks of long vectors, one vector a row: in full precision, whatever products with the operator have.
// Nothing waits but read(), settle() and what says so: coefficients go from one product to the next in the backend's memory, on the board.
template <class B, class T>
class Blocks {
   public:
    using Buffer = typename B::template buffer<T>;
    Blocks(B& backend, std::uint64_t seed) : backend_(backend), board_(backend), seed_(seed) {}

    B& backend() { return backend_; }
    Board<B>& board() { return board_; }

    // a b^T, on the board.
    View<const T> inner(View<const T> a, View<const T> b) {
        const View<T> out = board_.template add<T>(a.rows, b.rows);
        product(Op::transpose, 1, a, b, 0, out);
        return out;
    }

    // The same on the host. Waits.
    Small inner_now(View<const T> a, View<const T> b) {
        board_.clear();
        const View<const T> place = inner(a, b);
        board_.read();
        return board_[place];
    }

    // <a_i, b_i> for each row, on the board.
    View<const double> dots(View<const T> a, View<const T> b) {
        const View<double> out = board_.template add<double>(1, a.rows);
        backend_.row_dots(a, b, out);
        return out;
    }

    // out = alpha c x + beta out, c (out.rows, x.rows)
    void combine(double alpha, View<const T> c, View<const T> x, double beta, View<T> out) { product(Op::none, alpha, c, x, beta, out); }
    void combine(double alpha, const Small& c, View<const T> x, double beta, View<T> out) {
        const Buffer buffer = backend_.template allocate<T>(c.rows * c.cols);
        const View<T> factors(buffer.data(), c.rows, c.cols);
        backend_.from_host(View<const double>(c.values.data(), c.rows, c.cols), factors);
        combine(alpha, View<const T>(factors), x, beta, out);
    }

    // x <- c x for a small square c.
    void transform(const Small& c, View<T> x) {
        Buffer copy = backend_.template allocate<T>(x.rows * x.cols);
        const View<T> old(copy.data(), x.rows, x.cols);
        backend_.copy(View<const T>(x), old);
        combine(1, c, View<const T>(old), 0, x);
    }

    // x -= (x basis^T) basis, twice ("twice is enough"); returns x basis^T of the passes below one another.
    View<const T> project_out(View<const T> basis, View<T> x, int passes = 2) {
        const View<T> all = board_.template add<T>(passes * x.rows, basis.rows);
        for (int pass = 0; pass < passes && basis.rows > 0; ++pass) {
            const View<T> c = all.row_range(pass * x.rows, x.rows);
            product(Op::transpose, 1, View<const T>(x), basis, 0, c);
            combine(-1, View<const T>(c), basis, 1, x);
        }
        return all;
    }
    // What project_out took out of `rows` rows in all, once the board was read.
    Small taken(View<const T> passes, index rows) const {
        const Small all = board_[passes];
        Small total(rows, passes.cols);
        for (std::size_t q = 0; q < all.values.size(); ++q) total.values[q % total.values.size()] += all.values[q];
        return total;
    }

    // y becomes what elimination::orthonormal makes of x, of which there may be less than of x: marks on the board say.
    Turn turn(View<const T> x, View<T> y, double floor, double cut, bool drop) {
        const index s = x.rows;
        const Buffer buffer = backend_.template allocate<T>(2 * s * s);
        const View<T> gram(buffer.data(), s, s), to(buffer.data() + s * s, s, s);
        const Turn made{board_.template add<double>(drop ? 0 : s, s), board_.template add<double>(1, 2)};
        product(Op::transpose, 1, x, x, 0, gram);
        backend_.orthonormal_factor(View<const T>(gram), floor, cut, drop, to, made.from, made.marks);
        combine(1, View<const T>(to), x, 0, y);
        return made;
    }

    // The rows of y that are not zero, once the board was read.
    index rows_of(const Turn& made) const {
        const Small marks = board_[made.marks];
        if (std::isnan(marks(0, 1))) throw nonfinite_error(nonfinite_product);
        return index(marks(0, 0));
    }

    // Rows of x become orthonormal and orthogonal to the basis, to which they already are up to rounding: by two passes of Cholesky's
    // factorisation with pivots ("CholeskyQR2", Yamamoto, Nakatsukasa, Yanagisawa & Fukaya 2015), which nearly always are enough. Whether
    // they were, settle() knows after the board was read.
    struct Passes {
        Turn first, second;
    };
    Passes orthonormalize(View<const T> basis, View<T> x) {
        const Buffer buffer = backend_.template allocate<T>(x.rows * x.cols);
        const View<T> y(buffer.data(), x.rows, x.cols);
        const Turn first = turn(View<const T>(x), y, 0, cut(x.rows), false);
        // What is left of the basis in a short row has grown with it when the row was made one of norm one.
        project_out(basis, y, 1);
        return {first, turn(View<const T>(y), x, noise(x.rows), cut(x.rows), false)};
    }

    // Further passes where two were too few, each with a wait. Returns c with x_before = c x_after (up to what lay below `floor` in norm),
    // the largest directions first. Directions that carry no more than `floor` are replaced by random ones with zero columns in c: an
    // invariant subspace was found.
    Small settle(View<const T> basis, View<T> x, const Passes& passes, double floor) {
        const index s = x.rows;
        Small back = multiply(board_[passes.first.from], board_[passes.second.from]);
        rows_of(passes.first);
        Turn turned = passes.second;
        for (int pass = 2;; ++pass) {
            const index there = rows_of(turned);
            bool fresh = false;
            for (index i = 0; i < s; ++i) {
                double square = 0;
                for (index q = 0; q < s; ++q) square += back(q, i) * back(q, i);
                if (i < there && std::sqrt(square) > floor) continue;
                fresh = true;
                fill_random(x.row_range(i, 1));
                project_out(basis, x.row_range(i, 1));
                for (index q = 0; q < s; ++q) back(q, i) = 0;
            }
            if ((!fresh && board_[turned.marks](0, 1) > 0.25) || pass == 6) return back;
            floor = -1;
            const Buffer buffer = backend_.template allocate<T>(s * x.cols);
            const View<T> y(buffer.data(), s, x.cols);
            project_out(basis, x, 1);
            turned = turn(View<const T>(x), y, noise(s), cut(s), false);
            backend_.copy(View<const T>(y), x);
            board_.read();
            back = multiply(back, board_[turned.from]);
        }
    }

    // Both at once. Waits.
    Small orthonormalize_now(View<const T> basis, View<T> x, double floor) {
        board_.clear();
        const Passes passes = orthonormalize(basis, x);
        board_.read();
        return settle(basis, x, passes, floor);
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
    // The error of a Gram matrix of rows of length one; what is rounding in a row that was divided by its root.
    static double cut(index s) { return 4 * double(s) * double(std::numeric_limits<T>::epsilon()); }
    static double noise(index s) { return 10 * double(std::numeric_limits<T>::epsilon()) / std::sqrt(cut(s)); }

    void product(Op op, double alpha, View<const T> a, View<const T> b, double beta, View<T> out) {
        if (out.rows == 0 || out.cols == 0) return;
        [[maybe_unused]] const auto exact = backend_.full_precision();
        backend_.gemm(Op::none, op, T(alpha), a, b, T(beta), out);
    }

    B& backend_;
    Board<B> board_;
    std::uint64_t seed_;
    std::uint64_t stream_ = 0x6c616e63;  // apart from the streams that weights are drawn from
};

}  // namespace gnfast::solvers
