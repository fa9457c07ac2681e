// Kernels of matrices: transposition, triangles, the steps of the Gram matrix, Cholesky's diagonal blocks.
#include <array>

#include "core/triangle.hpp"
#include "cuda/kernels_symmetric.hpp"
#include "kernel_checks.hpp"
#include "naive_blas.hpp"

namespace gnfast::test {
namespace {

const cuda::Stream STREAM{};

TEST("cuda_matrices: transposition in batches") {
    for_types([]<class T>() {
        for (const auto& [count, rows, cols] :
             std::vector<std::array<index, 3>>{{1, 0, 3}, {1, 1, 1}, {3, 5, 7}, {2, 32, 33}, {1, 100, 65}, {2, 1, 70}}) {
            if (rows == 0) continue;
            const auto x = random<T>(count * rows, cols, 1);
            check_verb(Matrix<T>(count * cols, rows), 0, [&](auto& on, Matrix<T>& z) { on.transpose(members(x, rows), members(z, cols)); });
        }
    });
}

TEST("cuda_matrices: more matrices to transpose than blocks of one grid") {
    const index count = 4'099;  // 4,096 blocks
    const auto x = random<float>(count * 10, 2, 1);
    check_verb(Matrix<float>(count * 2, 10), 0, [&](auto& on, Matrix<float>& z) { on.transpose(members(x, 10), members(z, 2)); });
}

TEST("cuda_matrices: the lower triangle's mirror image, the lower one untouched") {
    for_types([]<class T>() {
        for (const index size : {0, 1, 5, 32, 33, 100}) {
            Matrix<T> lower = random<T>(size, size, 1);
            for (index i = 0; i < size; ++i)
                for (index j = i + 1; j < size; ++j) lower(i, j) = std::numeric_limits<T>::quiet_NaN();
            const auto found = in_both_orders(lower, [](Kernels&, Matrix<T>& a) { cuda::kernels::mirror_lower(STREAM, a.view()); });
            for (index i = 0; i < size; ++i)
                for (index j = 0; j < size; ++j) CHECK(found(i, j) == lower(std::max(i, j), std::min(i, j)));
            CHECK(found.gaps_untouched());
        }
    });
}

// ------------------------------------------------------------------------------------------------------- the Gram matrix
// other(row, col) times (inputs + bias), of a tile with ni by nj samples of r rows each, by plain loops.
template <class T, class F>
Matrix<T> hadamard(const Matrix<T>& start, const Matrix<T>& inputs, T bias, index r, bool lower_only, bool first, F&& other) {
    Matrix<T> out = start;
    for (index row = 0; row < out.rows; ++row)
        for (index col = 0; col < out.cols; ++col) {
            if (lower_only && col > row) continue;
            const T value = (inputs(row / r, col / r) + bias) * other(row, col);
            out(row, col) = first ? value : out(row, col) + value;
        }
    return out;
}

// f(ni, nj, r, bias, lower_only, first) for awkward tiles, on the diagonal and beside it.
template <class F>
void for_tiles(F&& f) {
    for (const auto& [ni, nj, r] : std::vector<std::array<index, 3>>{{1, 1, 1}, {3, 5, 1}, {7, 4, 3}, {5, 5, 10}, {30, 17, 2}})
        for (const double bias : {0.0, 1.0})
            for (const bool lower_only : {false, true})
                for (const bool first : {false, true})
                    if (!lower_only || ni == nj) f(ni, nj, r, bias, lower_only, first);
}

TEST("cuda_matrices: a Gram's tile by the rows' Gram, in place or added") {
    for_types([]<class T>() {
        for_tiles([](index ni, index nj, index r, double bias, bool lower_only, bool first) {
            const auto inputs = random<T>(ni, nj, 1), rows = random<T>(ni * r, nj * r, 2);
            const Matrix<T> start = first ? Matrix<T>(ni * r, nj * r) : random<T>(ni * r, nj * r, 3);
            const auto other = [&](index row, index col) { return rows(row, col); };
            const auto found = in_both_orders(start, [&](Kernels&, Matrix<T>& out) {
                cuda::kernels::hadamard(STREAM, inputs.read(), T(bias), r, rows.read(), out.view(), lower_only, first);
            });
            check_equal(found, hadamard(start, inputs, T(bias), r, lower_only, first, other), rounding<T>(2));
            if (!first) return;
            const auto in_place = in_both_orders(rows, [&](Kernels&, Matrix<T>& out) {
                cuda::kernels::hadamard(STREAM, inputs.read(), T(bias), r, View<const T>(out.view()), out.view(), lower_only, true);
            });
            check_equal(in_place, hadamard(rows, inputs, T(bias), r, lower_only, true, other), rounding<T>(2));
        });
    });
}

TEST("cuda_matrices: a Gram's tile of rows that share a factor, by pairs of outputs and, without derivatives, by weights") {
    for_types([]<class T>() {
        for_tiles([](index ni, index nj, index r, double bias, bool lower_only, bool first) {
            const index m = 6, pairs = triangle::count(r);
            const auto inputs = random<T>(ni, nj, 1), factor = random<T>(r, m, 2), left = random<T>(ni, m, 3), right = random<T>(nj, m, 4);
            const Matrix<T> start = first ? Matrix<T>(ni * r, nj * r) : random<T>(ni * r, nj * r, 5);
            // All but the first pair together, the first alone.
            Matrix<T> scaled(pairs * ni, m), products(pairs * ni, nj);
            for (const auto& [from, count] : {std::pair<index, index>{0, 1}, {1, pairs - 1}})
                cuda::kernels::pair_rows(STREAM, factor.read(), left.read(), from, scaled.view().row_range(from * ni, count * ni));
            CHECK(scaled.gaps_untouched());
            for (index i = 0; i < pairs * ni; ++i)
                for (index j = 0; j < nj; ++j) {
                    products(i, j) = 0;
                    for (index q = 0; q < m; ++q) products(i, j) += scaled(i, q) * right(j, q);
                }
            const auto found = in_both_orders(start, [&](Kernels&, Matrix<T>& out) {
                cuda::kernels::hadamard_pairs(STREAM, inputs.read(), T(bias), r, products.read(), out.view(), lower_only, first);
            });
            const auto expected = hadamard(start, inputs, T(bias), r, lower_only, first, [&](index row, index col) {
                T total = 0;
                for (index q = 0; q < m; ++q) total += factor(row % r, q) * left(row / r, q) * factor(col % r, q) * right(col / r, q);
                return total;
            });
            check_equal(found, expected, 20 * rounding<T>(m));

            const auto weights = random<T>(r, r, 6);
            const auto shared = in_both_orders(start, [&](Kernels&, Matrix<T>& out) {
                cuda::kernels::hadamard_shared(STREAM, inputs.read(), T(bias), r, weights.read(), out.view(), lower_only, first);
            });
            check_equal(
                shared,
                hadamard(start, inputs, T(bias), r, lower_only, first, [&](index row, index col) { return weights(row % r, col % r); }),
                rounding<T>(2));
        });
    });
}

// ------------------------------------------------------------------------------------------------------- symmetric matrices
// Positive definite; NaN above the diagonal.
template <class T>
Matrix<T> definite(index size) {
    const auto a = random<T>(size, size, 5);
    Matrix<T> out(size, size);
    for (index i = 0; i < size; ++i)
        for (index j = 0; j <= i; ++j) {
            out(i, j) = i == j ? T(1) : T(0);
            for (index q = 0; q < size; ++q) out(i, j) += a(i, q) * a(j, q) / T(size);
        }
    return out;
}

TEST("cuda_matrices: Cholesky's diagonal block, its failing pivot, and nothing after a failure") {
    use_naive_blas();
    for_types([]<class T>() {
        for (const index size : {1, 2, 17, 63, 64}) {
            const auto original = definite<T>(size);
            Matrix<T> expected = original;
            CHECK(cpu::CpuBackend().cholesky(expected.view()) == 0);
            index failed = 0;
            Kernels on;
            const auto factor = [&](Kernels&, Matrix<T>& a) { cuda::kernels::cholesky_block(STREAM, a.view(), index(100), &failed); };
            check_equal(in_both_orders(original, factor), expected, 4 * rounding<T>(size));
            CHECK(failed == 0);
            Matrix<T> bad = original;
            bad(size / 2, size / 2) = std::numeric_limits<T>::quiet_NaN();
            factor(on, bad);
            CHECK(failed == 100 + size / 2 + 1);
            Matrix<T> untouched = original;
            factor(on, untouched);
            CHECK(same_bits(untouched, original) && failed == 100 + size / 2 + 1);
        }
    });
}

// The kernels' results, one below the other: made rows, the way back, marks; in the shared memory of a block up to 54 rows.
template <class T>
struct Eliminated {
    Matrix<T> small;
    Matrix<double> from, marks;
    std::vector<double> room;

    explicit Eliminated(index size)
        : small(size, size), from(size, size, 0), marks(1, 2, 0), room(std::size_t(cuda::kernels::elimination_room(size))) {}
};

TEST("cuda_matrices: elimination of small matrices as on the processor") {
    for_types([]<class T>() {
        for (const index size : {1, 2, 9, 33, 54, 55, 70}) {
            Matrix<T> gram = definite<T>(size);
            for (index i = 0; i < size; ++i)
                for (index j = 0; j < i; ++j) gram(j, i) = gram(i, j);
            const index gone = size / 2, twice = size - 1;
            for (index i = 0; i < size && size > 2; ++i) {  // a zero, a duplicate
                gram(gone, i) = gram(i, gone) = 0;
                gram(twice, i) = gram(0, i), gram(i, twice) = gram(i, 0);
            }
            if (size > 2) gram(twice, twice) = gram(0, 0), gram(twice, 0) = gram(0, twice) = gram(0, 0);
            const double cut = 4 * double(size) * double(std::numeric_limits<T>::epsilon()), tolerance = 20 * rounding<T>(size);
            cpu::CpuBackend processor;
            Eliminated<T> expected(size), found(size);
            for (const bool drop : {false, true}) {
                processor.orthonormal_factor(gram.read(), 0, cut, drop, expected.small.view(), expected.from.view(), expected.marks.view());
                found.small = in_both_orders(Matrix<T>(size, size), [&](Kernels&, Matrix<T>& to) {
                    cuda::kernels::orthonormal_factor(STREAM, found.room.data(), gram.read(), 0.0, cut, drop, to.view(), found.from.view(),
                                                      found.marks.view());
                });
                check_equal(found.small, expected.small, tolerance);
                check_equal(found.from, expected.from, tolerance);
                check_equal(found.marks, expected.marks, tolerance);
                CHECK(found.marks(0, 0) == (size <= 2 ? size : size - (drop ? 2 : 1)));
            }
            processor.semidefinite_inverse(gram.read(), 0, cut, expected.small.view(), expected.marks.view());
            found.small = in_both_orders(Matrix<T>(size, size), [&](Kernels&, Matrix<T>& out) {
                cuda::kernels::semidefinite_inverse(STREAM, found.room.data(), gram.read(), 0.0, cut, out.view(), found.marks.view());
            });
            check_equal(found.small, expected.small, tolerance);
            check_equal(found.marks, expected.marks, tolerance);
        }
    });
}

TEST("cuda_matrices: how far a matrix is from symmetric") {
    for_types([]<class T>() {
        for (const index size : {7, 300}) {
            auto a = random<T>(size, size, 1);
            const auto seen = [&] {
                const auto found = in_both_orders(Matrix<double>(cuda::kernels::asymmetry_rows, 3, 0), [&](Kernels&, Matrix<double>& out) {
                    cuda::kernels::asymmetry(STREAM, a.read(), out.values.data());
                });
                std::array<double, 3> most{0, 0, 0};
                for (index i = 0; i < found.rows; ++i)
                    for (index j = 0; j < 3; ++j) most[std::size_t(j)] = std::max(most[std::size_t(j)], found(i, j));
                return most;
            };
            double scale = 0, difference = 0;
            for (index i = 0; i < size; ++i)
                for (index j = 0; j < size; ++j) {
                    scale = std::max(scale, std::abs(double(a(i, j))));
                    difference = std::max(difference, std::abs(double(a(i, j)) - double(a(j, i))));
                }
            CHECK((seen() == std::array<double, 3>{scale, difference, 0}));
            a(size / 2, size - 1) = std::numeric_limits<T>::infinity();
            CHECK(seen()[2] == 1);
        }
    });
}

}  // namespace
}  // namespace gnfast::test
