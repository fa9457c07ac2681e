// Memory that products use again and again: leased, and handed back when the lease ends.
#pragma once

#include <utility>
#include <vector>

#include "core/backend.hpp"

namespace gnfast {

template <class B, class T>
class Workspace {
   public:
    using Buffer = typename B::template buffer<T>;

    // `patches`: the numbers that the patches of images may take at a time; one image's always may.
    explicit Workspace(B& backend_, index patches_ = index(1) << 20) : backend(backend_), patches(patches_) {}
    Workspace(const Workspace&) = delete;

    class Lease {
       public:
        Lease() = default;
        Lease(Workspace* owner, Buffer buffer) : owner_(owner), buffer_(std::move(buffer)) {}
        Lease(Lease&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), buffer_(std::move(other.buffer_)) {}
        Lease& operator=(Lease&& other) noexcept {
            std::swap(owner_, other.owner_);
            std::swap(buffer_, other.buffer_);
            return *this;
        }
        ~Lease() {
            if (owner_) owner_->free_.push_back(std::move(buffer_));
        }
        explicit operator bool() const { return owner_ != nullptr; }
        T* data() const { return buffer_.data(); }

       private:
        Workspace* owner_ = nullptr;
        Buffer buffer_;
    };

    // The smallest free buffer that is large enough; else one of them makes place for a new one, so that there are never more
    // buffers than leases at a time. Ends of leases do not allocate: room for them is made here.
    Lease acquire(index size) {
        std::size_t best = free_.size();
        for (std::size_t i = 0; i < free_.size(); ++i)
            if (free_[i].size() >= size && (best == free_.size() || free_[i].size() < free_[best].size())) best = i;
        Buffer found;
        if (best < free_.size()) {
            found = take(best);
        } else {
            if (!free_.empty())
                take(free_.size() - 1);
            else
                free_.reserve(++buffers_);
            found = backend.template allocate<T>(size);
        }
        return Lease(this, std::move(found));
    }

    B& backend;
    const index patches;

   private:
    Buffer take(std::size_t i) {
        std::swap(free_[i], free_.back());
        Buffer found = std::move(free_.back());
        free_.pop_back();
        return found;
    }

    std::vector<Buffer> free_;
    std::size_t buffers_ = 0;
};

}  // namespace gnfast
