// Kernels that touch each number once, random numbers and losses: as on the processor, whatever the shape, stride and order of threads.
#include <array>

#include "kernel_checks.hpp"

namespace gnfast::test {
namespace {

const std::vector<std::array<index, 2>> SHAPES{{0, 5}, {5, 0}, {1, 1}, {3, 7}, {37, 501}, {1, 1000}, {1000, 1}, {2, 33}};

TEST("cuda_pointwise: fill, copy and convert") {
    for_types([]<class T>() {
        for (const auto& [rows, cols] : SHAPES) {
            const auto x = random<T>(rows, cols, 1);
            const auto single = random<float>(rows, cols, 2);
            const auto both = random<double>(rows, cols, 3);
            const Matrix<T> out(rows, cols, 5);
            check_verb(out, 0, [&](auto& on, Matrix<T>& z) { on.fill(z.view(), T(2.5)); });
            check_verb(out, 0, [&](auto& on, Matrix<T>& z) { on.copy(single.read(), z.view()); });
            check_verb(out, 0, [&](auto& on, Matrix<T>& z) { on.copy(both.read(), z.view()); });
        }
    });
}

TEST("cuda_pointwise: activations and their derivatives, the value in place") {
    const auto check = [](auto f) {
        for_types([&]<class T>() {
            for (const auto& [rows, cols] : SHAPES) {
                auto z = random<T>(rows, cols, 1);
                if (rows > 1 && cols > 0) z(1, 0) = 0, z(0, cols - 1) = T(-30), z(rows - 1, 0) = T(40);
                check_verb(z, rounding<T>(1), [&](auto& on, Matrix<T>& value) {
                    Matrix<T> derivative(value.rows, value.cols);
                    on.apply(f, View<const T>(value.view()), value.view(), derivative.view());
                });
                check_verb(Matrix<T>(rows, cols, 2), rounding<T>(1), [&](auto& on, Matrix<T>& derivative) {
                    Matrix<T> value(rows, cols);
                    on.apply(f, z.read(), value.view(), derivative.view());
                });
            }
        });
    };
    check(pointwise::Identity{});
    check(pointwise::LeakyRelu{0.0});
    check(pointwise::LeakyRelu{0.3});
    check(pointwise::Tanh{});
    check(pointwise::Sigmoid{});
    check(pointwise::Gelu{});
    check(pointwise::GeluTanh{});
    check(pointwise::Silu{});
    check(pointwise::Elu{1.0});
    check(pointwise::Softplus{});
}

TEST("cuda_pointwise: products and sums with rows, in batches") {
    for_types([]<class T>() {
        for (const auto& [rows, cols] : SHAPES) {
            if (rows == 0) continue;
            const index s = 3;
            const auto x = random<T>(s * rows, cols, 1, 2), a = random<T>(s * rows, cols, 2), d = random<T>(rows, cols, 3),
                       one = random<T>(1, cols, 4), each = random<T>(s, cols, 5);
            const double tolerance = rounding<T>(1);
            check_verb(x, 0, [&](auto& on, Matrix<T>& z) { on.multiply_rows(members(z, rows), d.read()); });
            check_verb(x, 0, [&](auto& on, Matrix<T>& z) { on.multiply_row_groups(z.view(), d.read(), s); });
            check_verb(x, 0, [&](auto& on, Matrix<T>& z) { on.add_row(members(z, rows), Batch<const T>(one.read(), s, 0)); });
            check_verb(x, 0, [&](auto& on, Matrix<T>& z) { on.add_row(members(z, rows), members(each, 1)); });
            check_verb(x, tolerance, [&](auto& on, Matrix<T>& z) { on.add_product(a.read(), x.read(), z.view()); });
            check_verb(x, 0, [&](auto& on, Matrix<T>& z) { on.add_diagonal(z.view(), T(-2)); });
            for (const T alpha : {T(0), T(-0.5), T(1)})
                for (const T beta : {T(0), T(3)}) {
                    // What is multiplied by 0 is not read.
                    const Matrix<T> in = alpha == T(0) ? Matrix<T>(s * rows, cols) : a;
                    const Matrix<T> start = beta == T(0) ? Matrix<T>(s * rows, cols, 2) : x;
                    check_verb(start, tolerance, [&](auto& on, Matrix<T>& z) { on.scale_add(alpha, in.read(), beta, z.view()); });
                }
        }
    });
}

TEST("cuda_pointwise: rows combined by factors of their own, those of 0 unread") {
    for_types([]<class T>() {
        auto x = random<T>(5, 71, 1), out = random<T>(5, 71, 2);
        for (index q = 0; q < 71; ++q) x(1, q) = out(2, q) = out(3, q) = std::numeric_limits<T>::quiet_NaN();
        const std::vector<double> alphas{2, 0, -3, 0, 0.5}, betas{1, -2, 0, 0, 0.25};
        check_verb(out, rounding<T>(2), [&](auto& on, Matrix<T>& z) {
            on.combine_rows(std::span<const double>(alphas), x.read(), std::span<const double>(betas), z.view());
        });
    });
}

TEST("cuda_pointwise: more elements than one grid has threads, in each direction") {
    const index many = (index(1) << 20) + 5;  // 4,096 blocks of 256 threads are 2^20
    const std::vector<std::array<index, 3>> shapes{{1, 1, many}, {1, many, 1}, {many, 1, 1}, {3, 1500, 1000}};
    for (const auto& [count, rows, cols] : shapes) {
        const auto row = random<float>(1, cols, 1);
        const auto start = Matrix<float>(count * rows, cols, 0);
        Matrix<float> out = start;
        Kernels on;
        on.fill(out.view(), 2.0f);
        on.add_row(members(out, rows), Batch<const float>(row.read(), count, 0));
        for (index i = 0; i < out.rows; ++i)
            for (index q = 0; q < cols; ++q) CHECK(out(i, q) == 2.0f + row(0, q));
    }
}

TEST("cuda_pointwise: random numbers are the processor's") {
    for_types([]<class T>() {
        for (const index cols : {0, 1, 3, 4, 127, 128, 129, 333}) {
            const Matrix<T> out(5, cols);
            const std::uint64_t seed = 0x123456789abcdefull, stream = (std::uint64_t{1} << 40) + 7;
            // The logarithm and the cosine may be another library's.
            check_verb(out, 4 * std::numeric_limits<T>::epsilon(),
                       [&](auto& on, Matrix<T>& z) { on.fill_normal(z.view(), seed, stream, 0.75); });
            check_verb(out, 0, [&](auto& on, Matrix<T>& z) { on.fill_uniform(z.view(), seed, stream, -1.0, 3.0); });
            check_verb(out, 0, [&](auto& on, Matrix<T>& z) { on.fill_signs(z.view(), seed, stream); });
        }
    });
}

// ------------------------------------------------------------------------------------------------------- losses
const std::vector<Loss> FORMULAS{Loss::mse, Loss::cross_entropy, Loss::binary_cross_entropy, Loss::poisson};

// What is kept of 4 samples, of the weights 1, 0.3, 0 and 1, one of them with a saturated class and one with equal outputs.
template <class T>
Matrix<T> outputs_of(index k) {
    auto f = random<T>(4, k, 1);
    f(0, k - 1) = T(60);
    for (index a = 0; a < k; ++a) f(3, a) = T(0.5);
    return f;
}

TEST("cuda_pointwise: losses, for few and for more outputs than a warp has lanes") {
    for_types([]<class T>() {
        for (const Loss loss : FORMULAS)
            for (const index k : {1, 2, 5, 31, 32, 33, 70}) {
                const Matrix<T> f = outputs_of<T>(k);
                const double tolerance = 4 * rounding<T>(k);
                if (loss != Loss::mse)
                    check_verb(Matrix<T>(4, k), tolerance, [&](auto& on, Matrix<T>& z) { on.loss_prepare(loss, f.read(), z.view()); });
                Matrix<T> kept(4, k);
                cpu::CpuBackend().fill(kept.view(), T(1));
                if (loss != Loss::poisson) cpu::CpuBackend().loss_prepare(loss, f.read(), kept.view());
                for (index a = 0; a < k; ++a) kept(1, a) *= T(0.3), kept(2, a) = 0;
                for (const bool none : {false, true}) {
                    if (none && loss != Loss::mse) continue;
                    const View<const T> given = none ? View<const T>() : kept.read();
                    check_verb(random<T>(3 * 4, k, 2), tolerance,
                               [&](auto& on, Matrix<T>& u) { on.loss_hessian(loss, given, T(0.25), members(u, 4)); });
                    for (const bool reduced : {false, true}) {
                        const index r = loss::factor_rank(loss, k, reduced);
                        if (r == 0) continue;
                        check_verb(Matrix<T>(4 * r, k, 0), tolerance,
                                   [&](auto& on, Matrix<T>& rows) { on.loss_factor(loss, given, reduced, T(0.25), rows.view()); });
                    }
                }
            }
    });
}

TEST("cuda_pointwise: more rows than one grid has warps") {
    const index n = (index(1) << 15) + 3, k = 17;  // 4,096 blocks of 8 warps
    const auto kept = random<float>(n, k, 1, 0);
    check_verb(random<float>(n, k, 2, 0), rounding<float>(1),
               [&](auto& on, Matrix<float>& u) { on.loss_hessian(Loss::poisson, kept.read(), 0.5f, members(u, n)); });
}

}  // namespace
}  // namespace gnfast::test
