// Memory of the CUDA backend, from an allocator that Python hands over (CuPy's pool) or CUDA's own.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "core/types.hpp"

namespace gnfast::cuda {

// Both work in the order of the current stream: what is released may be handed out again to work that is enqueued later.
struct Allocator {
    std::function<void*(std::size_t)> allocate;
    std::function<void(void*)> release;  // must not throw
};

// For all buffers made from now on; those made before go back to where they came from.
void set_allocator(Allocator allocator);
std::shared_ptr<const Allocator> current_allocator();

// Uninitialised memory of an array on the device; moved, never copied.
template <class T>
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(index size) : size_(size) {
        if (size <= 0) return;
        auto from = current_allocator();
        T* const data = static_cast<T*>(from->allocate(sizeof(T) * static_cast<std::size_t>(size)));
        data_ = std::unique_ptr<T, Give>(data, Give{std::move(from)});
    }
    T* data() const { return data_.get(); }
    index size() const { return size_; }

   private:
    struct Give {
        std::shared_ptr<const Allocator> to;
        void operator()(T* block) const noexcept { to->release(block); }
    };
    std::unique_ptr<T, Give> data_;
    index size_ = 0;
};

}  // namespace gnfast::cuda
