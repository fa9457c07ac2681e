// Where the backend looks for cuBLAS' functions: the emulated ones, by the names that the library has.
#include <map>

#include "cuda/cublas.hpp"

namespace gnfast::cuda::library {

void* open(const std::string&) {
    static int here;
    return &here;
}

void* symbol(void*, const char* name) {
    static const std::map<std::string, void*> all{
#define GNFAST_ONE(f) {#f, reinterpret_cast<void*>(&f)}
        GNFAST_ONE(cublasGetProperty),  GNFAST_ONE(cublasGetStatusString), GNFAST_ONE(cublasCreate_v2),
        GNFAST_ONE(cublasSetStream_v2), GNFAST_ONE(cublasGemmEx_64),       GNFAST_ONE(cublasGemmStridedBatchedEx_64),
        GNFAST_ONE(cublasSsyrk_v2_64),  GNFAST_ONE(cublasDsyrk_v2_64),     GNFAST_ONE(cublasSsymm_v2_64),
        GNFAST_ONE(cublasDsymm_v2_64),  GNFAST_ONE(cublasStrsm_v2_64),     GNFAST_ONE(cublasDtrsm_v2_64),
    };
    const auto found = all.find(name);
    return found == all.end() ? nullptr : found->second;
}

std::string why_not(const std::string&) { return "the emulated cuBLAS is always there"; }

}  // namespace gnfast::cuda::library
