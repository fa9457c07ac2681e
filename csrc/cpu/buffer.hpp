// Memory of the CPU backend.
#pragma once

#include <cstddef>
#include <memory>

#include "core/types.hpp"

namespace gnfast::cpu {

// Uninitialised memory, on a page's boundary where it is large, else on a cache line's. What is freed is kept for the next that fits, a
// few large blocks in all: see memory.cpp.
void* take_memory(std::size_t bytes);
void give_memory(void* block, std::size_t bytes) noexcept;
// Bytes that the machine could still give without swapping; infinity where it does not say.
double available_memory();

// Uninitialised memory of an array; moved, never copied.
template <class T>
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(index size) : size_(size) {
        if (size <= 0) return;
        const std::size_t bytes = sizeof(T) * static_cast<std::size_t>(size);
        data_ = std::unique_ptr<T, Give>(static_cast<T*>(take_memory(bytes)), Give{bytes});
    }
    T* data() const { return data_.get(); }
    index size() const { return size_; }

   private:
    struct Give {
        std::size_t bytes = 0;
        void operator()(T* block) const noexcept { give_memory(block, bytes); }
    };
    std::unique_ptr<T, Give> data_;
    index size_ = 0;
};

}  // namespace gnfast::cpu
