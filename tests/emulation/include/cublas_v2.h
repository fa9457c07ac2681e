// What the backend uses of cuBLAS, for builds without CUDA: the declarations of its documentation, bodies in cublas.cpp.
#pragma once

#include <cstdint>

#include "cuda_runtime_api.h"

using cublasHandle_t = struct cublasContext*;

enum cublasStatus_t {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_NOT_INITIALIZED = 1,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_EXECUTION_FAILED = 13,
    CUBLAS_STATUS_NOT_SUPPORTED = 15,
};
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasFillMode_t { CUBLAS_FILL_MODE_LOWER = 0, CUBLAS_FILL_MODE_UPPER = 1 };
enum cublasSideMode_t { CUBLAS_SIDE_LEFT = 0, CUBLAS_SIDE_RIGHT = 1 };
enum cublasDiagType_t { CUBLAS_DIAG_NON_UNIT = 0, CUBLAS_DIAG_UNIT = 1 };
enum cudaDataType { CUDA_R_32F = 0, CUDA_R_64F = 1 };
enum libraryPropertyType { MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL };
enum cublasComputeType_t {
    CUBLAS_COMPUTE_32F = 68,
    CUBLAS_COMPUTE_64F = 70,
    CUBLAS_COMPUTE_32F_FAST_16BF = 75,
    CUBLAS_COMPUTE_32F_FAST_TF32 = 77,
};
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT = -1 };

extern "C" {

const char* cublasGetStatusString(cublasStatus_t status);
cublasStatus_t cublasGetProperty(libraryPropertyType type, int* value);
cublasStatus_t cublasCreate_v2(cublasHandle_t* handle);
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream);
#define cublasCreate cublasCreate_v2
#define cublasSetStream cublasSetStream_v2

cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, std::int64_t m, std::int64_t n,
                               std::int64_t k, const void* alpha, const void* a, cudaDataType a_type, std::int64_t lda, const void* b,
                               cudaDataType b_type, std::int64_t ldb, const void* beta, void* c, cudaDataType c_type, std::int64_t ldc,
                               cublasComputeType_t compute, cublasGemmAlgo_t algorithm);
cublasStatus_t cublasGemmStridedBatchedEx_64(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, std::int64_t m,
                                             std::int64_t n, std::int64_t k, const void* alpha, const void* a, cudaDataType a_type,
                                             std::int64_t lda, long long stride_a, const void* b, cudaDataType b_type, std::int64_t ldb,
                                             long long stride_b, const void* beta, void* c, cudaDataType c_type, std::int64_t ldc,
                                             long long stride_c, std::int64_t count, cublasComputeType_t compute,
                                             cublasGemmAlgo_t algorithm);

#define GNFAST_CUBLAS_OF(X, T)                                                                                                         \
    cublasStatus_t cublas##X##syrk_v2_64(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t trans, std::int64_t n,        \
                                         std::int64_t k, const T* alpha, const T* a, std::int64_t lda, const T* beta, T* c,            \
                                         std::int64_t ldc);                                                                            \
    cublasStatus_t cublas##X##symm_v2_64(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, std::int64_t m,          \
                                         std::int64_t n, const T* alpha, const T* a, std::int64_t lda, const T* b, std::int64_t ldb,   \
                                         const T* beta, T* c, std::int64_t ldc);                                                       \
    cublasStatus_t cublas##X##trsm_v2_64(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, cublasOperation_t trans, \
                                         cublasDiagType_t diag, std::int64_t m, std::int64_t n, const T* alpha, const T* a,            \
                                         std::int64_t lda, T* b, std::int64_t ldb);
GNFAST_CUBLAS_OF(S, float)
GNFAST_CUBLAS_OF(D, double)
#undef GNFAST_CUBLAS_OF
#define cublasSsyrk_64 cublasSsyrk_v2_64
#define cublasDsyrk_64 cublasDsyrk_v2_64
#define cublasSsymm_64 cublasSsymm_v2_64
#define cublasDsymm_64 cublasDsymm_v2_64
#define cublasStrsm_64 cublasStrsm_v2_64
#define cublasDtrsm_64 cublasDtrsm_v2_64

}  // extern "C"
