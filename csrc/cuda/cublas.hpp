// cuBLAS by function pointer: nothing to link, nothing to find before it is used. The library is the one that is loaded already
// (by CuPy), or one whose path is handed over.
#pragma once

#include <cublas_v2.h>

#include <string>

namespace gnfast::cuda {

// What is used of cuBLAS 12 and later, in its 64-bit interface.
struct Cublas {
    decltype(&cublasGetProperty) get_property = nullptr;
    decltype(&cublasGetStatusString) status_string = nullptr;
    decltype(&cublasCreate) create = nullptr;
    decltype(&cublasSetStream) set_stream = nullptr;
    decltype(&cublasGemmEx_64) gemm = nullptr;
    decltype(&cublasGemmStridedBatchedEx_64) gemm_batch = nullptr;
    decltype(&cublasSsyrk_64) ssyrk = nullptr;
    decltype(&cublasDsyrk_64) dsyrk = nullptr;
    decltype(&cublasSsymm_64) ssymm = nullptr;
    decltype(&cublasDsymm_64) dsymm = nullptr;
    decltype(&cublasStrsm_64) strsm = nullptr;
    decltype(&cublasDtrsm_64) dtrsm = nullptr;
};

// Fills the table from the library at the path, or, where it is empty, from the one loaded already; returns its version. Throws
// std::runtime_error where there is none or a function is missing. Neither needs a driver.
std::string load_cublas(const std::string& path);
std::string cublas_version();  // "" before a library was loaded

// The table; throws before load_cublas.
const Cublas& cublas();
// A handle of this thread's on the current device and the current stream.
cublasHandle_t cublas_handle();
// Throws std::runtime_error unless the status is success.
void check(cublasStatus_t status, const std::string& what);

// What is behind the table; the tests have another one.
namespace library {
// nullptr where there is no such library; path empty: the one that is loaded already.
void* open(const std::string& path);
void* symbol(void* library, const char* name);
std::string why_not(const std::string& path);  // in words, after open returned nullptr
}  // namespace library

}  // namespace gnfast::cuda
