// The memory of the emulated device: one arena that the host cannot touch, except while the device works.
#pragma once

#include <cstddef>

namespace gnfast::emulation {

// While one of these lives the arena can be read and written: kernels, copies and the emulated cuBLAS hold one. One thread at a time.
class DeviceWorks {
   public:
    explicit DeviceWorks(bool asked = true);  // asked: a call that the host makes and does not wait for by itself
    ~DeviceWorks();
    DeviceWorks(const DeviceWorks&) = delete;
    DeviceWorks& operator=(const DeviceWorks&) = delete;
};

// The host waits for all that the device was asked to do; counted unless nothing was asked since it last waited.
void wait();
// How often the host has waited so far, and how many kernels, copies and calls of cuBLAS it has asked for.
long waits();
long calls();

// Memory full of NaN, or nullptr where the arena has no room. It ends in a border, and whoever wrote there ends the process at release.
void* allocate(std::size_t bytes, int device);
bool release(void* pointer);  // false: not what allocate gave

// Whether [pointer, pointer + bytes) lies within one allocation of the device.
bool on_device(const void* pointer, std::size_t bytes);
// The device of that allocation, or -1.
int device_of(const void* pointer, std::size_t bytes);
// Whether any of it lies in the arena, allocated or not.
bool in_arena(const void* pointer, std::size_t bytes);

std::size_t bytes_in_all();
std::size_t bytes_used();

}  // namespace gnfast::emulation
