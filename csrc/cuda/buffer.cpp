#include "cuda/buffer.hpp"

#include <mutex>
#include <string>
#include <utility>

#include "core/errors.hpp"
#include "cuda/runtime.hpp"

namespace gnfast::cuda {
namespace {

void* allocate(std::size_t bytes) {
    void* block = nullptr;
    const cudaError_t status = cudaMallocAsync(&block, bytes, handle_of(current_stream()));
    if (status != cudaSuccess) check(status, "allocating " + megabytes(double(bytes)) + " of device memory");
    return block;
}

// A failure here is one of work that was enqueued before, which the next call that is checked reports again.
void release(void* block) { static_cast<void>(cudaFreeAsync(block, handle_of(current_stream()))); }

struct Current {
    std::mutex lock;
    std::shared_ptr<const Allocator> allocator = std::make_shared<const Allocator>(Allocator{&allocate, &release});
};

Current& current() {
    static Current& one = *new Current;  // never destroyed: buffers in Python's hands may outlive all statics
    return one;
}

}  // namespace

void set_allocator(Allocator allocator) {
    auto made = std::make_shared<const Allocator>(std::move(allocator));
    Current& now = current();
    const std::lock_guard guard(now.lock);
    now.allocator.swap(made);
}

std::shared_ptr<const Allocator> current_allocator() {
    Current& now = current();
    const std::lock_guard guard(now.lock);
    return now.allocator;
}

}  // namespace gnfast::cuda
