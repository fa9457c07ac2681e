// Kernels of images and normalisation against the processor's verbs, which have tests of their own against plain index arithmetic.
#include <algorithm>
#include <array>
#include <type_traits>

#include "cases.hpp"
#include "kernel_checks.hpp"
#include "naive_blas.hpp"

namespace gnfast::test {
namespace {

TEST("cuda_images: patches and their adjoint, onto zeros and onto what is there") {
    for_types([]<class T>() {
        for (const Windows& w : window_cases())
            for (const index m : {0, 1, 3}) {
                const auto images = random<T>(m, w.inputs(), 1), patches = random<T>(m * w.patch(), w.positions(), 2);
                check_verb(Matrix<T>(m * w.patch(), w.positions()), 0,
                           [&](auto& on, Matrix<T>& z) { on.gather_patches(images.read(), w, z.view()); });
                check_verb(Matrix<T>(m, w.inputs()), rounding<T>(w.taps()),
                           [&](auto& on, Matrix<T>& z) { on.scatter_patches(patches.read(), w, T(0), z.view()); });
                check_verb(random<T>(m, w.inputs(), 3), rounding<T>(w.taps()),
                           [&](auto& on, Matrix<T>& z) { on.scatter_patches(patches.read(), w, T(1), z.view()); });
            }
    });
}

// A convolution and its adjoint by the processor's patches.
struct ByPatches {
    cpu::CpuBackend processor;

    template <class T>
    void convolve(const Grid<const T>& weights, const Grid<const T>& images, const Windows& w, T beta, const Grid<T>& out) {
        const index n = images.inner;
        Matrix<T> patches(n * w.patch(), w.positions());
        processor.gather_patches(View<const T>(images.first.data, n, w.inputs(), images.inner_step), w, patches.view());
        processor.gemm_grid(Op::none, Op::none, T(1), weights, of_images<const T>(patches, w, out.outer), beta, out);
    }
    template <class T>
    void convolve_back(const Grid<const T>& weights, const Grid<const T>& g, const Windows& w, T beta, const Grid<T>& images) {
        const index n = images.inner;
        Matrix<T> patches(n * w.patch(), w.positions());
        processor.gemm_grid(Op::transpose, Op::none, T(1), weights, g, T(0), of_images<T>(patches, w, 1));
        processor.scatter_patches(patches.read(), w, beta, View<T>(images.first.data, n, w.inputs(), images.inner_step));
    }

    template <class U, class T>
    static Grid<U> of_images(Matrix<T>& patches, const Windows& w, index vectors) {
        return {View<U>(patches.values.data(), w.patch(), w.positions(), patches.stride), vectors, 0, patches.rows / w.patch(),
                w.patch() * patches.stride};
    }
};

// Vectors that share images, rows that no tile holds, columns that go on over images and tiles.
TEST("cuda_images: convolutions that read images, and their adjoint") {
    use_naive_blas();
    for_types([]<class T>() {
        for (const Windows& w : window_cases())
            for (const auto& [o, vectors, n] : {std::array<index, 3>{1, 1, 3}, {19, 3, 2}, {33, 1, 5}}) {
                const auto weights = random<T>(vectors * o, w.patch(), 1), images = random<T>(n, w.inputs(), 2),
                           outs = random<T>(n, o * w.positions(), 3);
                const auto weights_of = [&](index count) {
                    return Grid<const T>(View<const T>(weights.values.data(), o, w.patch(), weights.stride), count, o * weights.stride, n,
                                         0);
                };
                const auto parts = [&](auto& of, index rows) {
                    using U = std::remove_pointer_t<decltype(of.values.data())>;
                    return Grid<U>(View<U>(of.values.data(), rows, of.cols / rows), of.rows / n, n * of.stride, n, of.stride);
                };
                const auto check = [&](const Matrix<T>& start, index terms, auto&& verb) {
                    Matrix<T> expected = start;
                    ByPatches by_patches;
                    verb(by_patches, expected);
                    check_equal(in_both_orders(start, verb), expected, 4 * rounding<T>(terms));
                };
                for (const T beta : {T(0), T(1)}) {
                    const auto start = [&](index rows, index cols) {
                        return beta == T(0) ? Matrix<T>(rows, cols) : random<T>(rows, cols, 4);
                    };
                    check(start(vectors * n, o * w.positions()), w.patch(), [&](auto& on, Matrix<T>& z) {
                        auto shared = parts(images, w.channels);
                        shared.outer = vectors, shared.outer_step = 0;
                        on.convolve(weights_of(vectors), shared, w, beta, parts(z, o));
                    });
                    check(start(n, w.inputs()), o * w.taps(),
                          [&](auto& on, Matrix<T>& z) { on.convolve_back(weights_of(1), parts(outs, o), w, beta, parts(z, w.channels)); });
                }
            }
    });
}

TEST("cuda_images: pooling by averages and its adjoint") {
    for_types([]<class T>() {
        for (const Windows& w : window_cases()) {
            if (w.circular) continue;
            const index m = 2, outputs = w.channels * w.positions();
            const auto images = random<T>(m, w.inputs(), 1), g = random<T>(m, outputs, 2);
            for (const T beta : {T(0), T(1)}) {
                check_verb(beta == T(0) ? Matrix<T>(m, outputs) : random<T>(m, outputs, 3), rounding<T>(w.taps()),
                           [&](auto& on, Matrix<T>& z) { on.pool_average(images.read(), w, beta, z.view()); });
                check_verb(beta == T(0) ? Matrix<T>(m, w.inputs()) : random<T>(m, w.inputs(), 4), rounding<T>(w.taps()),
                           [&](auto& on, Matrix<T>& z) { on.spread_average(g.read(), w, beta, z.view()); });
            }
        }
    });
}

TEST("cuda_images: of equal maxima the first is chosen, and both directions go by it") {
    for_types([]<class T>() {
        for (const Windows& w : window_cases()) {
            if (w.circular) continue;
            const index n = 3, s = 2, outputs = w.channels * w.positions();
            auto images = random<T>(n, w.inputs(), 1);
            for (index j = 0; j < w.inputs(); ++j) images(0, j) = 1;
            std::vector<std::int32_t> expected(static_cast<std::size_t>(n * outputs)), found(expected.size());
            const View<std::int32_t> chosen(expected.data(), n, outputs), also(found.data(), n, outputs);
            check_verb(Matrix<T>(n, outputs), 0, [&](auto& on, Matrix<T>& z) {
                on.pool_max(images.read(), w, z.view(), std::is_same_v<decltype(on), Kernels&> ? also : chosen);
            });
            CHECK(found == expected);
            // A window that stands on padding alone chooses nothing, and no layer has such.
            if (std::find(expected.begin(), expected.end(), -1) != expected.end()) continue;
            const auto t = random<T>(s * n, w.inputs(), 2), g = random<T>(s * n, outputs, 3);
            const View<const std::int32_t> where = chosen;
            for (const T beta : {T(0), T(1)}) {
                check_verb(beta == T(0) ? Matrix<T>(s * n, outputs) : random<T>(s * n, outputs, 4), rounding<T>(1),
                           [&](auto& on, Matrix<T>& z) { on.gather_chosen(where, members(t, n), beta, members(z, n)); });
                check_verb(beta == T(0) ? Matrix<T>(s * n, w.inputs()) : random<T>(s * n, w.inputs(), 5), rounding<T>(w.taps()),
                           [&](auto& on, Matrix<T>& z) { on.scatter_chosen(where, w, members(g, n), beta, members(z, n)); });
            }
        }
    });
}

TEST("cuda_images: channels are added to and summed over all positions") {
    for_types([]<class T>() {
        for (const index positions : {1, 7, 32, 45}) {
            const index n = 3, s = 2, channels = 5;
            const auto b = random<T>(s, channels, 1), x = random<T>(s * n, channels * positions, 2);
            check_verb(x, 0, [&](auto& on, Matrix<T>& z) { on.add_channels(members(z, n), members(b, 1)); });
            check_verb(Matrix<T>(s * n, channels), rounding<T>(positions),
                       [&](auto& on, Matrix<T>& z) { on.sum_channels(members(x, n), members(z, n)); });
        }
    });
}

// ------------------------------------------------------------------------------------------------------- normalisation
TEST("cuda_images: normalisation by batches and by groups, its derivative with a gain before or after") {
    for_types([]<class T>() {
        auto shapes = norm_cases();
        shapes.push_back({40, 1, 40, 0});
        shapes.push_back({330, 66, 5, 0});
        shapes.push_back({80, 40, 1, 40});
        for (const NormShape& shape : shapes)
            for (const index n : {1, 37}) {
                const double eps = 0.1, tolerance = 50 * rounding<T>(1);
                const auto x = random<T>(n, shape.width, 1);
                Matrix<T> normalized(n, shape.width), inverse(shape.group ? n : 1, shape.groups());
                cpu::CpuBackend().normalize(x.read(), shape, eps, normalized.view(), inverse.view());
                check_verb(Matrix<T>(n, shape.width), tolerance, [&](auto& on, Matrix<T>& z) {
                    Matrix<T> factors = Matrix<T>(inverse.rows, inverse.cols);
                    on.normalize(x.read(), shape, eps, z.view(), factors.view());
                });
                check_verb(Matrix<T>(inverse.rows, inverse.cols), tolerance, [&](auto& on, Matrix<T>& z) {
                    Matrix<T> values(n, shape.width);
                    on.normalize(x.read(), shape, eps, values.view(), z.view());
                });
                const index s = 2;
                const auto gain = random<T>(1, shape.channels, 2), in = random<T>(s * n, shape.width, 3);
                for (const bool gain_first : {false, true})
                    for (const T beta : {T(0), T(1)})
                        for (const bool with_gain : {false, true})
                            check_verb(beta == T(0) ? Matrix<T>(s * n, shape.width) : random<T>(s * n, shape.width, 4), tolerance,
                                       [&](auto& on, Matrix<T>& z) {
                                           on.normalize_derivative(normalized.read(), inverse.read(), shape,
                                                                   with_gain ? gain.read() : View<const T>(), gain_first, members(in, n),
                                                                   beta, members(z, n));
                                       });
            }
    });
}

TEST("cuda_images: steps by channels and sums over them, for all samples and for each") {
    for_types([]<class T>() {
        auto shapes = norm_cases();
        shapes.push_back({24, 4, 3, 0});  // channels come again
        shapes.push_back({140, 2, 35, 0});
        for (const NormShape& shape : shapes)
            for (const index n : {1, 37})
                for (const bool with_x : {false, true})
                    for (const T beta : {T(0), T(1)}) {
                        const index s = 2, c = shape.channels;
                        const auto x = random<T>(n, shape.width, 1), g = random<T>(s * n, shape.width, 2), v = random<T>(s, c, 3),
                                   v2 = random<T>(1, c, 5);
                        const auto start = [&](index rows, index cols) {
                            return beta == T(0) ? Matrix<T>(rows, cols) : random<T>(rows, cols, 4);
                        };
                        const View<const T> values = with_x ? x.read() : View<const T>();
                        const Batch<const T> none(View<const T>(), 1, 0);
                        check_verb(start(s * n, shape.width), rounding<T>(2), [&](auto& on, Matrix<T>& z) {
                            on.affine_channels(Batch<const T>(values, s, 0), with_x ? members(v, 1) : none,
                                               with_x ? none : Batch<const T>(v2.read(), s, 0), shape, beta, members(z, n));
                        });
                        const double tolerance = rounding<T>(8);  // sums are in double
                        check_verb(start(s, c), tolerance,
                                   [&](auto& on, Matrix<T>& z) { on.sum_channels_of(members(g, n), values, shape, beta, members(z, 1)); });
                        check_verb(start(s * n, c), tolerance,
                                   [&](auto& on, Matrix<T>& z) { on.sum_channels_of(members(g, n), values, shape, beta, members(z, n)); });
                    }
    });
}

TEST("cuda_images: sums over rows, more of them than blocks of one grid too") {
    for_types([]<class T>() {
        for (const index n : {1, 2, 19, 300})
            for (const index m : {1, 23, 32, 70})
                for (const T beta : {T(0), T(1)}) {
                    const index s = 3;
                    const auto x = random<T>(s * n, m, 1);
                    check_verb(beta == T(0) ? Matrix<T>(s, m) : random<T>(s, m, 2), rounding<T>(n),
                               [&](auto& on, Matrix<T>& z) { on.sum_rows(members(x, n), beta, members(z, 1)); });
                }
    });
    const index many = 1'030;  // 1,024 blocks
    const auto x = random<float>(2 * many, 1, 1);
    check_verb(Matrix<float>(many, 1), rounding<float>(2),
               [&](auto& on, Matrix<float>& z) { on.sum_rows(members(x, 2), 0.0f, members(z, 1)); });
}

TEST("cuda_images: inner products, of rows that take several blocks too") {
    for_types([]<class T>() {
        for (const auto& [rows, cols] :
             std::vector<std::pair<index, index>>{{0, 4}, {3, 0}, {1, 1}, {5, 31}, {4, 33}, {2, 1000}, {3, 16'385}, {2, 50'003}}) {
            const auto a = random<T>(rows, cols, 1), b = random<T>(rows, cols, 2, 4);
            check_verb(Matrix<double>(1, rows), 1e-15 * double(4 + cols), [&](auto& on, Matrix<double>& z) {
                std::vector<double> dots;
                on.row_dots(a.read(), b.read(), dots);
                std::copy(dots.begin(), dots.end(), z.values.begin());
            });
        }
    });
}

TEST("cuda_images: inner products of more rows than blocks of one grid") {
    const index rows = 4'099;  // 4,096 blocks, of two warps
    const auto x = random<float>(rows, 33, 1);
    check_verb(Matrix<double>(1, rows), 1e-14, [&](auto& on, Matrix<double>& z) {
        std::vector<double> dots;
        on.row_dots(x.read(), x.read(), dots);
        std::copy(dots.begin(), dots.end(), z.values.begin());
    });
}

}  // namespace
}  // namespace gnfast::test
