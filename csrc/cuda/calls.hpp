// Single calls of cuBLAS on row-major views, enqueued on the current stream: a row-major matrix is a column-major one transposed, so that
// operands change places and triangles change sides.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>

#include "core/types.hpp"
#include "cuda/cublas.hpp"
#include "cuda/precision.hpp"

namespace gnfast::cuda::call {

template <class T>
constexpr cudaDataType data_type = std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_64F;

template <class T>
cublasComputeType_t compute_type() {
    if constexpr (std::is_same_v<T, double>) return CUBLAS_COMPUTE_64F;
    switch (precision_now()) {
        case Precision::high:
            return CUBLAS_COMPUTE_32F_FAST_TF32;
        case Precision::medium:
            return CUBLAS_COMPUTE_32F_FAST_16BF;
        default:
            return CUBLAS_COMPUTE_32F;
    }
}

inline cublasOperation_t flag(Op op) { return op == Op::none ? CUBLAS_OP_N : CUBLAS_OP_T; }

// The stride of a single row says nothing and may be anything; cuBLAS wants a row's length at least.
template <class T>
index leading(View<T> a) {
    return std::max({index(1), a.cols, a.rows > 1 ? a.stride : 0});
}

inline void succeed(cublasStatus_t status, const char* what, index m, index n, index k) {
    if (status != CUBLAS_STATUS_SUCCESS)
        check(status, std::string(what) + " of " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
}

// out = alpha op(a) op(b) + beta out for each member, 2 rows cols inner flops each.
template <class T>
void gemm(Op op_a, Op op_b, T alpha, Batch<const T> a, Batch<const T> b, T beta, Batch<T> out) {
    const index m = out.first.rows, n = out.first.cols, k = op_a == Op::none ? a.first.cols : a.first.rows;
    if (m == 0 || n == 0 || out.count == 0) return;
    const cublasHandle_t handle = cublas_handle();
    const index lda = leading(a.first), ldb = leading(b.first), ldc = leading(out.first);
    if (out.count == 1)
        return succeed(cublas().gemm(handle, flag(op_b), flag(op_a), n, m, k, &alpha, b.first.data, data_type<T>, ldb, a.first.data,
                                     data_type<T>, lda, &beta, out.first.data, data_type<T>, ldc, compute_type<T>(), CUBLAS_GEMM_DEFAULT),
                       "a product", m, n, k);
    // The third dimension of a grid, over which some of cuBLAS' kernels deal out the members, ends at 65,535.
    constexpr index most = 65535;
    for (index first = 0; first < out.count; first += most)
        succeed(cublas().gemm_batch(handle, flag(op_b), flag(op_a), n, m, k, &alpha, b[first].data, data_type<T>, ldb, b.step,
                                    a[first].data, data_type<T>, lda, a.step, &beta, out[first].data, data_type<T>, ldc, out.step,
                                    std::min(most, out.count - first), compute_type<T>(), CUBLAS_GEMM_DEFAULT),
                "a batch of products", m, n, k);
}

template <class T>
void gemm(Op op_a, Op op_b, T alpha, View<const T> a, View<const T> b, T beta, View<T> out) {
    gemm(op_a, op_b, alpha, Batch<const T>(a, 1, 0), Batch<const T>(b, 1, 0), beta, Batch<T>(out, 1, 0));
}

// Lower triangle of out = alpha a a^T + beta out; rows^2 cols flops.
template <class T>
void syrk(T alpha, View<const T> a, T beta, View<T> out) {
    if (out.rows == 0) return;
    const auto f = [] {
        if constexpr (std::is_same_v<T, float>)
            return cublas().ssyrk;
        else
            return cublas().dsyrk;
    }();
    succeed(f(cublas_handle(), CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_T, out.rows, a.cols, &alpha, a.data, leading(a), &beta, out.data,
              leading(out)),
            "a symmetric product", out.rows, out.rows, a.cols);
}

// out = v K for symmetric K given by its lower triangle; 2 rows^2 flops a vector.
template <class T>
void symm(View<const T> lower, View<const T> v, View<T> out) {
    if (lower.rows == 0 || v.rows == 0) return;
    const auto f = [] {
        if constexpr (std::is_same_v<T, float>)
            return cublas().ssymm;
        else
            return cublas().dsymm;
    }();
    const T one = 1, zero = 0;
    succeed(f(cublas_handle(), CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, lower.rows, v.rows, &one, lower.data, leading(lower), v.data,
              leading(v), &zero, out.data, leading(out)),
            "a product with a symmetric matrix", lower.rows, v.rows, lower.rows);
}

// Rows x of rhs: op transpose solves L y = x (x L^-T), op none solves L^T y = x; rows^2 flops a vector.
template <class T>
void trsm(Op op, View<const T> lower, View<T> rhs) {
    if (rhs.rows == 0 || rhs.cols == 0) return;
    const auto f = [] {
        if constexpr (std::is_same_v<T, float>)
            return cublas().strsm;
        else
            return cublas().dtrsm;
    }();
    const T one = 1;
    succeed(f(cublas_handle(), CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, flag(op), CUBLAS_DIAG_NON_UNIT, rhs.cols, rhs.rows, &one,
              lower.data, leading(lower), rhs.data, leading(rhs)),
            "a triangular solve", rhs.rows, rhs.cols, rhs.cols);
}

}  // namespace gnfast::cuda::call
