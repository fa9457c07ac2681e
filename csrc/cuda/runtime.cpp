#include "cuda/runtime.hpp"

#include <algorithm>
#include <stdexcept>

namespace gnfast::cuda {
namespace {

thread_local Stream stream_now;

void copy(const void* from, index from_stride, void* to, index to_stride, index rows, index cols, std::size_t size, cudaMemcpyKind kind,
          const char* what) {
    if (rows <= 0 || cols <= 0) return;
    const std::size_t width = std::size_t(cols) * size;
    // The stride of a single row says nothing, and a pitch may not be shorter than a row.
    const auto pitch = [&](index stride) { return std::max(width, std::size_t(stride) * size); };
    const bool whole = rows == 1 || (from_stride == cols && to_stride == cols);
    const cudaError_t status =
        whole ? cudaMemcpyAsync(to, from, width * std::size_t(rows), kind, handle_of(stream_now))
              : cudaMemcpy2DAsync(to, pitch(to_stride), from, pitch(from_stride), width, std::size_t(rows), kind, handle_of(stream_now));
    if (status != cudaSuccess)
        check(status, std::string(what) + " " + std::to_string(rows) + " x " + std::to_string(cols) + " numbers of " +
                          std::to_string(size) + " bytes");
}

}  // namespace

void check(cudaError_t status, const std::string& what) {
    if (status != cudaSuccess) throw std::runtime_error("CUDA: " + what + " failed: " + cudaGetErrorString(status));
}

int device_count() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver) return 0;
    check(status, "counting the devices");
    return count;
}

int current_device() {
    int device = 0;
    check(cudaGetDevice(&device), "asking for the current device");
    return device;
}

void set_device(int device) {
    const int count = device_count();
    if (device < 0 || device >= count)
        throw std::invalid_argument("device is " + std::to_string(device) + " but there are " + std::to_string(count) +
                                    " GPUs that CUDA can use; pass one of them, counted from 0");
    const cudaError_t status = cudaSetDevice(device);
    if (status != cudaSuccess) check(status, "choosing device " + std::to_string(device));
}

MemoryInfo memory_info() {
    MemoryInfo info{};
    check(cudaMemGetInfo(&info.free, &info.total), "asking for the device's memory");
    return info;
}

int device_of(const void* pointer) {
    cudaPointerAttributes found{};
    check(cudaPointerGetAttributes(&found, pointer), "asking where an array lies");
    return found.type == cudaMemoryTypeDevice || found.type == cudaMemoryTypeManaged ? found.device : -1;
}

Stream current_stream() { return stream_now; }
void set_stream(Stream stream) { stream_now = stream; }
void synchronize() { check(cudaStreamSynchronize(handle_of(stream_now)), "waiting for the stream"); }

void upload(const void* from, index from_stride, void* to, index to_stride, index rows, index cols, std::size_t size) {
    copy(from, from_stride, to, to_stride, rows, cols, size, cudaMemcpyHostToDevice, "copying to the device");
}

void download(const void* from, index from_stride, void* to, index to_stride, index rows, index cols, std::size_t size) {
    copy(from, from_stride, to, to_stride, rows, cols, size, cudaMemcpyDeviceToHost, "copying from the device");
    synchronize();
}

}  // namespace gnfast::cuda
