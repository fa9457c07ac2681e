// cuBLAS on the arena by plain loops: column-major, every operand checked against the device's memory and the documented rules.
#include <cublas_v2.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "emulation/arena.hpp"

struct cublasContext {};

namespace {

using namespace gnfast::emulation;
using Int = std::int64_t;

// A stored matrix (rows, cols) with a leading dimension that fits, wholly in the device's memory.
template <class T>
bool stored(const T* a, Int rows, Int cols, Int lda) {
    if (rows < 0 || cols < 0 || lda < std::max<Int>(1, rows)) return false;
    return rows == 0 || cols == 0 || on_device(a, sizeof(T) * std::size_t((cols - 1) * lda + rows));
}

bool is_flag(cublasOperation_t op) { return op == CUBLAS_OP_N || op == CUBLAS_OP_T; }

// What the tensor cores make of a float32 factor: so many bits of the fraction, rounded to nearest.
template <class T>
T rounded(T x, cublasComputeType_t compute) {
    if constexpr (std::is_same_v<T, float>) {
        const int bits = compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? 10 : compute == CUBLAS_COMPUTE_32F_FAST_16BF ? 7 : 23;
        if (bits == 23 || !std::isfinite(x)) return x;
        int exponent;
        const float fraction = std::frexp(x, &exponent);
        return std::ldexp(std::nearbyint(std::ldexp(fraction, bits + 1)), exponent - bits - 1);
    } else {
        return x;
    }
}

// op(a) (rows, cols), packed.
template <class T>
std::vector<T> packed(cublasOperation_t op, const T* a, Int lda, Int rows, Int cols, cublasComputeType_t compute) {
    std::vector<T> out(std::size_t(rows * cols));
    for (Int j = 0; j < cols; ++j)
        for (Int i = 0; i < rows; ++i)
            out[std::size_t(j * rows + i)] = rounded(op == CUBLAS_OP_N ? a[j * lda + i] : a[i * lda + j], compute);
    return out;
}

// c is read only where beta is not 0.
template <class T>
void scale(T beta, T* c, Int rows, Int cols, Int ldc) {
    for (Int j = 0; j < cols; ++j)
        for (Int i = 0; i < rows; ++i) c[j * ldc + i] = beta == T(0) ? T(0) : beta * c[j * ldc + i];
}

template <class T>
void gemm(cublasOperation_t ta, cublasOperation_t tb, Int m, Int n, Int k, T alpha, const T* a, Int lda, const T* b, Int ldb, T beta, T* c,
          Int ldc, cublasComputeType_t compute) {
    const std::vector<T> x = packed(ta, a, lda, m, k, compute), y = packed(tb, b, ldb, k, n, compute);
    std::vector<T> column(static_cast<std::size_t>(m));
    for (Int j = 0; j < n; ++j) {
        std::fill(column.begin(), column.end(), T(0));
        for (Int q = 0; q < k; ++q) {
            const T factor = y[std::size_t(j * k + q)];
            const T* const from = x.data() + q * m;
            for (Int i = 0; i < m; ++i) column[std::size_t(i)] += factor * from[i];
        }
        scale(beta, c + j * ldc, m, 1, std::max<Int>(1, m));
        for (Int i = 0; i < m; ++i) c[j * ldc + i] += alpha * column[std::size_t(i)];
    }
}

template <class T>
cublasStatus_t gemm_batch(cublasOperation_t ta, cublasOperation_t tb, Int m, Int n, Int k, const void* alpha, const void* a, Int lda,
                          Int step_a, const void* b, Int ldb, Int step_b, const void* beta, void* c, Int ldc, Int step_c, Int count,
                          cublasComputeType_t compute) {
    if (m < 0 || n < 0 || k < 0 || count < 0 || !is_flag(ta) || !is_flag(tb) || !alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
    if (in_arena(alpha, sizeof(T)) || in_arena(beta, sizeof(T))) return CUBLAS_STATUS_INVALID_VALUE;  // pointer mode host
    const DeviceWorks open;
    for (Int i = 0; i < count; ++i) {
        const T *x = static_cast<const T*>(a) + i * step_a, *y = static_cast<const T*>(b) + i * step_b;
        T* z = static_cast<T*>(c) + i * step_c;
        if (!stored(x, ta == CUBLAS_OP_N ? m : k, ta == CUBLAS_OP_N ? k : m, lda) ||
            !stored(y, tb == CUBLAS_OP_N ? k : n, tb == CUBLAS_OP_N ? n : k, ldb) || !stored(z, m, n, ldc))
            return CUBLAS_STATUS_INVALID_VALUE;
        gemm(ta, tb, m, n, k, *static_cast<const T*>(alpha), x, lda, y, ldb, *static_cast<const T*>(beta), z, ldc, compute);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t by_type(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, Int m, Int n, Int k, const void* alpha,
                       const void* a, cudaDataType a_type, Int lda, Int step_a, const void* b, cudaDataType b_type, Int ldb, Int step_b,
                       const void* beta, void* c, cudaDataType c_type, Int ldc, Int step_c, Int count, cublasComputeType_t compute) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (a_type != b_type || a_type != c_type || (a_type == CUDA_R_64F) != (compute == CUBLAS_COMPUTE_64F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const auto f = a_type == CUDA_R_64F ? &gemm_batch<double> : &gemm_batch<float>;
    return f(ta, tb, m, n, k, alpha, a, lda, step_a, b, ldb, step_b, beta, c, ldc, step_c, count, compute);
}

bool in_triangle(cublasFillMode_t uplo, Int i, Int j) { return uplo == CUBLAS_FILL_MODE_UPPER ? i <= j : i >= j; }

template <class T>
cublasStatus_t syrk(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t trans, Int n, Int k, const T* alpha, const T* a,
                    Int lda, const T* beta, T* c, Int ldc) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    const bool plain = trans == CUBLAS_OP_N;
    if (n < 0 || k < 0 || !is_flag(trans) || !stored(a, plain ? n : k, plain ? k : n, lda) || !stored(c, n, n, ldc))
        return CUBLAS_STATUS_INVALID_VALUE;
    const DeviceWorks open;
    for (Int j = 0; j < n; ++j)
        for (Int i = 0; i < n; ++i) {
            if (!in_triangle(uplo, i, j)) continue;
            T total = 0;
            for (Int q = 0; q < k; ++q) total += plain ? a[q * lda + i] * a[q * lda + j] : a[i * lda + q] * a[j * lda + q];
            c[j * ldc + i] = *alpha * total + (*beta == T(0) ? T(0) : *beta * c[j * ldc + i]);
        }
    return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t symm(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, Int m, Int n, const T* alpha, const T* a, Int lda,
                    const T* b, Int ldb, const T* beta, T* c, Int ldc) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (side != CUBLAS_SIDE_LEFT) return CUBLAS_STATUS_NOT_SUPPORTED;  // here: nobody asks for it
    if (!stored(a, m, m, lda) || !stored(b, m, n, ldb) || !stored(c, m, n, ldc)) return CUBLAS_STATUS_INVALID_VALUE;
    const DeviceWorks open;
    for (Int j = 0; j < n; ++j)
        for (Int i = 0; i < m; ++i) {
            T total = 0;
            for (Int q = 0; q < m; ++q) total += (in_triangle(uplo, i, q) ? a[q * lda + i] : a[i * lda + q]) * b[j * ldb + q];
            c[j * ldc + i] = *alpha * total + (*beta == T(0) ? T(0) : *beta * c[j * ldc + i]);
        }
    return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t trsm(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, cublasOperation_t trans, cublasDiagType_t diag,
                    Int m, Int n, const T* alpha, const T* a, Int lda, T* b, Int ldb) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (side != CUBLAS_SIDE_LEFT || diag != CUBLAS_DIAG_NON_UNIT) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!is_flag(trans) || !stored(a, m, m, lda) || !stored(b, m, n, ldb)) return CUBLAS_STATUS_INVALID_VALUE;
    const DeviceWorks open;
    const bool backwards = (uplo == CUBLAS_FILL_MODE_UPPER) == (trans == CUBLAS_OP_N);
    for (Int j = 0; j < n; ++j)
        for (Int step = 0; step < m; ++step) {
            const Int i = backwards ? m - 1 - step : step;
            T total = *alpha * b[j * ldb + i];
            for (Int done = 0; done < step; ++done) {
                const Int q = backwards ? m - 1 - done : done;
                total -= (trans == CUBLAS_OP_N ? a[q * lda + i] : a[i * lda + q]) * b[j * ldb + q];
            }
            b[j * ldb + i] = total / a[i * lda + i];
        }
    return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

const char* cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_NOT_INITIALIZED:
            return "CUBLAS_STATUS_NOT_INITIALIZED";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "CUBLAS_STATUS_INVALID_VALUE";
        default:
            return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
}

cublasStatus_t cublasGetProperty(libraryPropertyType type, int* value) {
    *value = type == MAJOR_VERSION ? 13 : 0;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t) {
    return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, Int m, Int n, Int k,
                               const void* alpha, const void* a, cudaDataType a_type, Int lda, const void* b, cudaDataType b_type, Int ldb,
                               const void* beta, void* c, cudaDataType c_type, Int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
    return by_type(handle, transa, transb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute);
}

cublasStatus_t cublasGemmStridedBatchedEx_64(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, Int m, Int n, Int k,
                                             const void* alpha, const void* a, cudaDataType a_type, Int lda, long long stride_a,
                                             const void* b, cudaDataType b_type, Int ldb, long long stride_b, const void* beta, void* c,
                                             cudaDataType c_type, Int ldc, long long stride_c, Int count, cublasComputeType_t compute,
                                             cublasGemmAlgo_t) {
    return by_type(handle, transa, transb, m, n, k, alpha, a, a_type, lda, stride_a, b, b_type, ldb, stride_b, beta, c, c_type, ldc,
                   stride_c, count, compute);
}

#define GNFAST_CUBLAS_OF(X, T)                                                                                                         \
    cublasStatus_t cublas##X##syrk_v2_64(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t trans, Int n, Int k,          \
                                         const T* alpha, const T* a, Int lda, const T* beta, T* c, Int ldc) {                          \
        return syrk(handle, uplo, trans, n, k, alpha, a, lda, beta, c, ldc);                                                           \
    }                                                                                                                                  \
    cublasStatus_t cublas##X##symm_v2_64(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, Int m, Int n,            \
                                         const T* alpha, const T* a, Int lda, const T* b, Int ldb, const T* beta, T* c, Int ldc) {     \
        return symm(handle, side, uplo, m, n, alpha, a, lda, b, ldb, beta, c, ldc);                                                    \
    }                                                                                                                                  \
    cublasStatus_t cublas##X##trsm_v2_64(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, cublasOperation_t trans, \
                                         cublasDiagType_t diag, Int m, Int n, const T* alpha, const T* a, Int lda, T* b, Int ldb) {    \
        return trsm(handle, side, uplo, trans, diag, m, n, alpha, a, lda, b, ldb);                                                     \
    }
GNFAST_CUBLAS_OF(S, float)
GNFAST_CUBLAS_OF(D, double)
