// The memory of the emulated device: one arena that the host cannot touch, except while the device works.
#pragma once

#include <cstddef>

namespace gnfast::emulation {

// While one of these lives the arena can be read and written: kernels, copies and the emulated cuBLAS hold one.
class DeviceWorks {
   public:
    DeviceWorks();
    ~DeviceWorks();
    DeviceWorks(const DeviceWorks&) = delete;
    DeviceWorks& operator=(const DeviceWorks&) = delete;
};

// Whether [pointer, pointer + bytes) lies within one allocation of the device.
bool on_device(const void* pointer, std::size_t bytes);
// Whether any of it lies in the arena, allocated or not.
bool in_arena(const void* pointer, std::size_t bytes);

}  // namespace gnfast::emulation
