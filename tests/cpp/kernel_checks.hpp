// The kernels as a backend has them, on plain memory, and what they must have in common with the processor's verbs.
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "check.hpp"
#include "cpu/cpu_backend.hpp"
#include "cuda/kernels.hpp"
#include "emulation/device.hpp"
#include "matrices.hpp"

namespace gnfast::test {

struct Kernels {
#define GNFAST_VERB(name)                                  \
    template <class... A>                                  \
    void name(const A&... arguments) {                     \
        cuda::kernels::name(cuda::Stream{}, arguments...); \
    }
    GNFAST_VERB(fill)
    GNFAST_VERB(copy)
    GNFAST_VERB(apply)
    GNFAST_VERB(multiply_rows)
    GNFAST_VERB(multiply_row_groups)
    GNFAST_VERB(add_row)
    GNFAST_VERB(add_product)
    GNFAST_VERB(add_diagonal)
    GNFAST_VERB(scale_add)
    GNFAST_VERB(fill_normal)
    GNFAST_VERB(fill_uniform)
    GNFAST_VERB(fill_signs)
    GNFAST_VERB(gather_patches)
    GNFAST_VERB(scatter_patches)
    GNFAST_VERB(convolve)
    GNFAST_VERB(convolve_back)
    GNFAST_VERB(pool_average)
    GNFAST_VERB(spread_average)
    GNFAST_VERB(pool_max)
    GNFAST_VERB(gather_chosen)
    GNFAST_VERB(scatter_chosen)
    GNFAST_VERB(add_channels)
    GNFAST_VERB(normalize)
    GNFAST_VERB(normalize_derivative)
    GNFAST_VERB(affine_channels)
    GNFAST_VERB(sum_channels_of)
    GNFAST_VERB(sum_channels)
    GNFAST_VERB(sum_rows)
    GNFAST_VERB(loss_prepare)
    GNFAST_VERB(loss_hessian)
    GNFAST_VERB(loss_factor)
    GNFAST_VERB(transpose)
#undef GNFAST_VERB

    template <class T>
    void combine_rows(std::span<const double> alphas, View<const T> in, std::span<const double> betas, View<T> out) {
        cuda::kernels::combine_rows(cuda::Stream{}, alphas.data(), in, betas.data(), out);
    }
    template <class T>
    void row_dots(View<const T> a, View<const T> b, std::vector<double>& out) {
        const auto none = std::numeric_limits<double>::quiet_NaN();
        out.assign(static_cast<std::size_t>(a.rows), none);
        std::vector<double> room(static_cast<std::size_t>(cuda::kernels::row_dots_room(a.rows, a.cols)), none);
        cuda::kernels::row_dots(cuda::Stream{}, a, b, out.data(), room.data());
    }
};

template <class T>
bool same_bits(const Matrix<T>& a, const Matrix<T>& b) {
    return a.values.size() == b.values.size() &&
           (a.values.empty() || std::memcmp(a.values.data(), b.values.data(), a.values.size() * sizeof(T)) == 0);
}

// f(kernels, out) with the threads of a block from the first to the last and the other way, from the same `out`: to the last bit the same.
template <class T, class F>
Matrix<T> in_both_orders(const Matrix<T>& start, F&& f) {
    Kernels kernels;
    Matrix<T> out = start, backward = start;
    f(kernels, out);
    emulation::set_order(emulation::Order::backward);
    f(kernels, backward);
    emulation::set_order(emulation::Order::forward);
    CHECK(same_bits(out, backward));
    return out;
}

// Up to a tolerance for numbers of order one, relative for larger ones; NaN where NaN is expected, and in the gaps.
template <class T>
void check_equal(const Matrix<T>& found, const Matrix<T>& expected, double tolerance) {
    for (index i = 0; i < found.rows; ++i)
        for (index j = 0; j < found.cols; ++j) {
            if (std::isnan(expected(i, j))) {
                CHECK(std::isnan(found(i, j)));
                continue;
            }
            CHECK_NEAR(found(i, j), expected(i, j), tolerance * std::max(1.0, std::abs(double(expected(i, j)))));
        }
    CHECK(found.gaps_untouched());
}

// What verb(backend, out) leaves in `out` on the processor and by kernels.
template <class T, class F>
void check_verb(const Matrix<T>& start, double tolerance, F&& verb) {
    cpu::CpuBackend processor;
    Matrix<T> expected = start;
    verb(processor, expected);
    check_equal(in_both_orders(start, verb), expected, tolerance);
}

// Members of `rows` rows below one another.
template <class T>
Batch<T> members(Matrix<T>& all, index rows) {
    return {View<T>(all.values.data(), rows, all.cols, all.stride), all.rows / rows, rows * all.stride};
}
template <class T>
Batch<const T> members(const Matrix<T>& all, index rows) {
    return {View<const T>(all.values.data(), rows, all.cols, all.stride), all.rows / rows, rows * all.stride};
}

// f.operator()<T>() for both types.
template <class F>
void for_types(F&& f) {
    f.template operator()<float>();
    f.template operator()<double>();
}

}  // namespace gnfast::test
