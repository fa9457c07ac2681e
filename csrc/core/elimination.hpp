// Small matrices by elimination with pivots: orthonormal rows from their Gram matrix, and inverses. The same formulas for one thread and
// for a block of them on a GPU, in double; what solvers would otherwise ask the host for in the middle of a step.
#pragma once

#include <cmath>

#include "core/host_device.hpp"
#include "core/types.hpp"

namespace gnfast::elimination {

// Who works on the matrix together: each takes rows from `row` on in steps of row_step, columns likewise; wait() until all have come.
struct OneThread {
    static constexpr index row = 0, row_step = 1, col = 0, col_step = 1;
    GNFAST_HD void wait() const {}
};

// Numbers of room that a matrix of s rows takes.
GNFAST_HD constexpr index room(index s) { return s * (2 * s + 4); }

// Of the members one each for f(i), i < s.
template <class G, class F>
GNFAST_HD void each(const G& group, index s, F&& f) {
    for (index i = group.row * group.col_step + group.col; i < s; i += group.row_step * group.col_step) f(i);
}

struct Work {
    index s;
    double *a, *e;          // (s, s): the matrix, from which factors take its place; what makes rows of it
    double *weight, *some;  // (s): how large a row is; room for one number a row
    index *order, *place;   // (s): the row at a place, pivots first; the place of a row

    GNFAST_HD Work(double* memory, index s_)
        : s(s_),
          a(memory),
          e(a + s * s),
          weight(e + s * s),
          some(weight + s),
          order(reinterpret_cast<index*>(some + s)),
          place(order + s) {}
    static_assert(sizeof(index) == sizeof(double));

    GNFAST_HD double& at(index i, index j) const { return a[i * s + j]; }
    GNFAST_HD double& made(index i, index j) const { return e[i * s + j]; }
};

// Rows of the symmetric a become pivots while there is one with a_ii > cut, the row with the largest weight_i a_ii first; a row keeps its
// place before others that are hardly larger. Returns their number, `least` the least of their a_ii. In the order of pivots a = L L^T up to
// what is left behind them: column j of L in the pivot's column of a (in rows whose place is not before j), L^-1 in the pivots' rows of e.
// 4 s^3 / 3 flops.
template <class G>
GNFAST_HD index eliminate(const G& group, const Work& w, double cut, double& least) {
    const index s = w.s;
    for (index i = group.row; i < s; i += group.row_step)
        for (index j = group.col; j < s; j += group.col_step) w.made(i, j) = i == j ? 1 : 0;
    each(group, s, [&](index i) { w.order[i] = i; });
    group.wait();
    least = HUGE_VAL;
    index rank = 0;
    for (; rank < s; ++rank) {
        const auto size = [&](index p) {
            const index i = w.order[p];
            return w.at(i, i) > cut ? w.weight[i] * w.at(i, i) : 0.0;  // NaN is none
        };
        double most = 0;
        for (index p = rank; p < s; ++p) most = size(p) > most ? size(p) : most;
        if (!(most > 0)) break;
        index chosen = rank;
        while (!(2 * size(chosen) >= most)) ++chosen;
        const index i = w.order[chosen];
        const double pivot = w.at(i, i), root = std::sqrt(pivot);
        least = pivot < least ? pivot : least;
        group.wait();
        if (group.row == 0 && group.col == 0) {
            w.order[chosen] = w.order[rank], w.order[rank] = i;
            w.at(i, i) = root;
        }
        group.wait();
        each(group, s, [&](index p) {
            const index q = w.order[p];
            w.some[q] = p > rank ? w.at(q, i) /= root : 0;
        });
        each(group, s, [&](index c) { w.made(i, c) /= root; });
        group.wait();
        for (index p = rank + 1 + group.row; p < s; p += group.row_step) {
            const index q = w.order[p];
            const double factor = w.some[q];
            for (index c = group.col; c < s; c += group.col_step) {
                w.at(q, c) -= factor * w.some[c];  // zero for pivots, whose columns stay
                w.made(q, c) -= factor * w.made(i, c);
            }
        }
        group.wait();
    }
    return rank;
}

// From the Gram matrix of rows x what makes them orthonormal: y = to x, x = from y, the largest rows of y first. Rows of x not longer than
// `floor` count as zero. What is left of a row beside those before it, as a part of its length, is known down to sqrt(cut): below it a row
// of y stays short, or, to be dropped, is zero. marks: the rows of y that are not zero, which come first; the least part squared, NaN where
// the Gram matrix is not finite. `from` may be empty.
template <class G, class T>
GNFAST_HD void orthonormal(const G& group, double* memory, View<const T> gram, double floor, double cut, bool drop, View<T> to,
                           View<double> from, View<double> marks) {
    const Work w(memory, gram.rows);
    const index s = w.s;
    each(group, s, [&](index i) {
        const double square = double(gram.row(i)[i]);
        const bool there = square > floor * floor && square - square == 0;
        w.weight[i] = there ? square : 0;
        w.some[i] = there ? 1 / std::sqrt(square) : 0;
    });
    group.wait();
    for (index i = group.row; i < s; i += group.row_step)
        for (index j = group.col; j < s; j += group.col_step) {
            const bool there = w.weight[i] > 0 && w.weight[j] > 0;
            const double entry = (double(gram.row(i)[j]) + double(gram.row(j)[i])) / 2 * w.some[i] * w.some[j];
            w.at(i, j) = !there ? 0 : i == j ? 1 : entry;
        }
    group.wait();
    double least = 0;
    const index rank = eliminate(group, w, cut, least);
    index there = 0;
    for (index i = 0; i < s; ++i) {
        there += w.weight[i] > 0;
        if (!(double(gram.row(i)[i]) - double(gram.row(i)[i]) == 0)) least = NAN;
    }
    if (there > rank && cut < least) least = cut;
    if (drop) there = rank;
    group.wait();
    if (group.row == 0 && group.col == 0) {
        index next = rank;
        for (index p = rank; p < s; ++p) {
            const index i = w.order[p];
            if (w.weight[i] > 0) w.order[p] = w.order[next], w.order[next++] = i;
        }
        for (index p = 0; p < s; ++p) w.place[w.order[p]] = p;
        marks.data[0] = double(there), marks.data[1] = least;
    }
    each(group, s, [&](index i) { w.some[i] = w.weight[i] > 0 ? 1 / std::sqrt(w.weight[i]) : 0; });
    group.wait();
    const double root = std::sqrt(cut);
    for (index p = group.row; p < s; p += group.row_step)
        for (index c = group.col; c < s; c += group.col_step)
            to.row(p)[c] = p < there ? T(w.made(w.order[p], c) * w.some[c] / (p < rank ? 1 : root)) : T(0);
    for (index i = group.row; i < from.rows; i += group.row_step)
        for (index p = group.col; p < s; p += group.col_step) {
            const double length = w.weight[i] > 0 ? std::sqrt(w.weight[i]) : 0;
            const bool below = p <= w.place[i] && p < rank;
            from.row(i)[p] = length * (below ? w.at(i, w.order[p]) : p == w.place[i] && p < there ? root : 0);
        }
}

// The inverse of a positive semi-definite matrix, its symmetric part taken, on rows whose pivots exceed cut = rounding times `largest` or
// its Frobenius norm, whichever is more; zero on the others. marks: the least of what is left of the others' diagonal and of its
// off-diagonal entries' negative moduli, 0 without others: far below -cut the matrix is not semi-definite; the Frobenius norm. 5 s^3 / 3
// flops.
template <class G, class T>
GNFAST_HD void inverse(const G& group, double* memory, View<const T> matrix, double largest, double rounding, View<T> out,
                       View<double> marks) {
    const Work w(memory, matrix.rows);
    const index s = w.s;
    for (index i = group.row; i < s; i += group.row_step)
        for (index j = group.col; j < s; j += group.col_step) w.at(i, j) = (double(matrix.row(i)[j]) + double(matrix.row(j)[i])) / 2;
    group.wait();
    each(group, s, [&](index i) {
        double total = 0;
        for (index j = 0; j < s; ++j) total += w.at(i, j) * w.at(i, j);
        w.weight[i] = 1, w.some[i] = total;
    });
    group.wait();
    double norm = 0;
    for (index i = 0; i < s; ++i) norm += w.some[i];
    norm = std::sqrt(norm);
    group.wait();
    double least = 0;
    const index rank = eliminate(group, w, rounding * (norm > largest ? norm : largest), least);
    each(group, s - rank, [&](index p) {
        const index i = w.order[rank + p];
        double lowest = 0;
        for (index q = rank; q < s; ++q) {
            const index j = w.order[q];
            lowest = std::fmin(lowest, i == j ? w.at(i, i) : -std::fabs(w.at(i, j)));
        }
        w.some[i] = lowest;
    });
    group.wait();
    if (group.row == 0 && group.col == 0) {
        double lowest = 0;
        for (index p = rank; p < s; ++p) lowest = std::fmin(lowest, w.some[w.order[p]]);
        marks.data[0] = lowest, marks.data[1] = norm;
    }
    for (index c = group.row; c < s; c += group.row_step)
        for (index d = group.col; d < s; d += group.col_step) {
            double total = 0;
            for (index p = 0; p < rank; ++p) total += w.made(w.order[p], c) * w.made(w.order[p], d);
            out.row(c)[d] = T(total);
        }
}

}  // namespace gnfast::elimination
