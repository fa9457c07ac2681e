// Memory of the CPU backend.
#pragma once

#include <memory>
#include <new>

#include "core/types.hpp"

namespace gnfast::cpu {

// Uninitialised memory on a cache line's boundary; moved, never copied.
template <class T>
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(index size) : size_(size) {
        if (size > 0) data_.reset(static_cast<T*>(::operator new(sizeof(T) * static_cast<std::size_t>(size), alignment)));
    }
    T* data() const { return data_.get(); }
    index size() const { return size_; }

   private:
    static constexpr std::align_val_t alignment{64};
    struct Free {
        void operator()(T* p) const { ::operator delete(p, alignment); }
    };
    std::unique_ptr<T, Free> data_;
    index size_ = 0;
};

}  // namespace gnfast::cpu
