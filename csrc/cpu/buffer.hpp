// Memory of the CPU backend.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <memory>
#include <new>

#include "core/types.hpp"

namespace gnfast::cpu {

// Uninitialised memory on a cache line's boundary; moved, never copied. Large ones ask for huge pages, as NumPy's arrays do:
// 4 KiB at a time, the kernel's share of a block eigensolver was an eighth of its time.
template <class T>
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(index size) : size_(size) {
        if (size <= 0) return;
        const std::size_t bytes = sizeof(T) * static_cast<std::size_t>(size);
        const std::align_val_t alignment{bytes >= huge_from ? huge_page : cache_line};
        data_ = std::unique_ptr<T, Free>(static_cast<T*>(::operator new(bytes, alignment)), Free{alignment});
#if defined(__linux__)
        // Advice: where it is refused the memory is as good as before.
        if (bytes >= huge_from) ::madvise(data_.get(), bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
    }
    T* data() const { return data_.get(); }
    index size() const { return size_; }

   private:
    static constexpr std::size_t cache_line = 64, huge_page = std::size_t(1) << 21, huge_from = 2 * huge_page;
    struct Free {
        std::align_val_t alignment{cache_line};
        void operator()(T* p) const { ::operator delete(p, alignment); }
    };
    std::unique_ptr<T, Free> data_;
    index size_ = 0;
};

}  // namespace gnfast::cpu
