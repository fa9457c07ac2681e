// The CUDA runtime on the arena: two devices, streams that are never behind, and every rule of the documentation that a wrong call breaks.
#include <cuda_runtime_api.h>

#include <cstring>

#include "emulation/arena.hpp"

namespace {

using namespace gnfast::emulation;

constexpr int devices = 2;
thread_local int device_now = 0;

// Device memory must be the device's, and memory of the host none of it.
bool fits(const void* pointer, std::size_t bytes, bool device) { return device ? on_device(pointer, bytes) : !in_arena(pointer, bytes); }

bool sides(cudaMemcpyKind kind, bool& from_device, bool& to_device) {
    from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    return kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
}

}  // namespace

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorInvalidConfiguration:
            return "invalid configuration argument";
        case cudaErrorInvalidDevice:
            return "invalid device ordinal";
        case cudaErrorIllegalAddress:
            return "an illegal memory access was encountered";
        default:
            return "unrecognized error code";
    }
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = devices;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = device_now;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= devices) return cudaErrorInvalidDevice;
    device_now = device;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    *total = bytes_in_all();
    *free = *total - bytes_used();
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    const int device = device_of(pointer, 1);
    *attributes = {device < 0 ? cudaMemoryTypeUnregistered : cudaMemoryTypeDevice, device, const_cast<void*>(pointer), nullptr};
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, std::size_t size) {
    *pointer = allocate(size, device_now);
    return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaMallocAsync(void** pointer, std::size_t size, cudaStream_t) { return cudaMalloc(pointer, size); }

cudaError_t cudaFree(void* pointer) { return pointer == nullptr || release(pointer) ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return cudaFree(pointer); }

// To memory of the host that is not pinned, as none of ours is, it returns when it is done.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t count, cudaMemcpyKind kind, cudaStream_t) {
    return cudaMemcpy(to, from, count, kind);
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t count, cudaMemcpyKind kind) {
    bool from_device, to_device;
    if (!sides(kind, from_device, to_device) || !fits(from, count, from_device) || !fits(to, count, to_device))
        return cudaErrorInvalidValue;
    const DeviceWorks open;
    std::memcpy(to, from, count);
    if (!to_device) wait();
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                              std::size_t height, cudaMemcpyKind kind, cudaStream_t) {
    bool from_device, to_device;
    if (width > to_pitch || width > from_pitch || !sides(kind, from_device, to_device)) return cudaErrorInvalidValue;
    if (width == 0 || height == 0) return cudaSuccess;
    if (!fits(from, (height - 1) * from_pitch + width, from_device) || !fits(to, (height - 1) * to_pitch + width, to_device))
        return cudaErrorInvalidValue;
    const DeviceWorks open;
    for (std::size_t i = 0; i < height; ++i)
        std::memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
    if (!to_device) wait();
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
    wait();
    return cudaSuccess;
}
