// Calls of the CUDA runtime, whose failures are exceptions that say what was tried.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "cuda/stream.hpp"

namespace gnfast::cuda {

// Throws std::runtime_error "<what>: <CUDA's own words>" unless the status is success.
void check(cudaError_t status, const std::string& what);
// The same, without building the text where all is well.
inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) check(status, std::string(what));
}

inline cudaStream_t handle_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

}  // namespace gnfast::cuda
