// The CUDA runtime as the backend uses it: failures are exceptions that say what was tried; the current stream; copies between host and
// device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "core/types.hpp"
#include "cuda/stream.hpp"

namespace gnfast::cuda {

// Throws std::runtime_error "<what> failed: <CUDA's own words>" unless the status is success.
void check(cudaError_t status, const std::string& what);
// The same, without building the text where all is well.
inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) check(status, std::string(what));
}

inline cudaStream_t handle_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

// GPUs that this process can use; 0 without a driver, which is no error.
int device_count();
int current_device();
void set_device(int device);

struct MemoryInfo {
    std::size_t free, total;  // bytes of the current device
};
MemoryInfo memory_info();

// The device that holds this memory, or -1 for memory of the host.
int device_of(const void* pointer);

// What this thread enqueues goes to its current stream, the default one unless it was set.
Stream current_stream();
void set_stream(Stream stream);
// Waits for all that was enqueued on the current stream.
void synchronize();

// rows x cols numbers of `size` bytes, rows `from_stride` and `to_stride` numbers apart. Up: the host's memory may change as soon as
// this returns. Down: waits, for what was enqueued before as well.
void upload(const void* from, index from_stride, void* to, index to_stride, index rows, index cols, std::size_t size);
void download(const void* from, index from_stride, void* to, index to_stride, index rows, index cols, std::size_t size);

}  // namespace gnfast::cuda
