// Large blocks are kept when they are freed: fresh memory costs more than the work that is done in it. The kernel clears it page by
// page (an eighth of a block eigensolver's time with pages of 4 KiB), and a virtual machine may have to ask its host for
// it as well: 0.2 s for the rows of a Gram of 5,000 that takes 0.65 s to form, now and then.
#include <algorithm>
#include <fstream>
#include <limits>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "cpu/buffer.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gnfast::cpu {
namespace {

constexpr std::size_t cache_line = 64, huge_page = std::size_t(1) << 21;
constexpr std::size_t large_from = 2 * huge_page;           // smaller ones the C library keeps itself
constexpr std::size_t kept_at_most = std::size_t(1) << 28;  // all of them together

struct Block {
    void* data;
    std::size_t bytes;
};

struct Kept {
    std::mutex lock;
    std::vector<Block> blocks;  // the oldest first
    std::size_t bytes = 0;
};

// Never destroyed: buffers may be freed while the process ends.
Kept& kept() {
    static Kept* const instance = new Kept;
    return *instance;
}

// All sizes of large blocks are whole huge pages, so that equal requests fit each other whatever their last bytes.
std::size_t rounded(std::size_t bytes) { return (bytes + huge_page - 1) / huge_page * huge_page; }

void* fresh(std::size_t bytes) {
    void* data = ::operator new(bytes, std::align_val_t{huge_page});
#if defined(__linux__)
    ::madvise(data, bytes, MADV_HUGEPAGE);  // where this advice is refused the memory is as good as before
#endif
    return data;
}

void release(void* block) noexcept { ::operator delete(block, std::align_val_t{huge_page}); }

}  // namespace

void* take_memory(std::size_t bytes) {
    if (bytes < large_from) return ::operator new(bytes, std::align_val_t{cache_line});
    bytes = rounded(bytes);
    Kept& store = kept();
    {
        const std::lock_guard guard(store.lock);
        // The size itself: a larger block would hide what an operation really needs.
        const auto found = std::find_if(store.blocks.rbegin(), store.blocks.rend(), [&](const Block& b) { return b.bytes == bytes; });
        if (found != store.blocks.rend()) {
            void* const data = found->data;
            store.blocks.erase(std::next(found).base());
            store.bytes -= bytes;
            return data;
        }
    }
    return fresh(bytes);
}

void give_memory(void* block, std::size_t bytes) noexcept {
    if (bytes < large_from) return ::operator delete(block, std::align_val_t{cache_line});
    bytes = rounded(bytes);
    if (bytes > kept_at_most) return release(block);
    Kept& store = kept();
    const std::lock_guard guard(store.lock);
    while (store.bytes + bytes > kept_at_most) {
        release(store.blocks.front().data);
        store.bytes -= store.blocks.front().bytes;
        store.blocks.erase(store.blocks.begin());
    }
    try {
        store.blocks.push_back({block, bytes});
        store.bytes += bytes;
    } catch (const std::bad_alloc&) {
        release(block);
    }
}

double available_memory() {
    std::ifstream file("/proc/meminfo");  // Linux; elsewhere there is none
    for (std::string name; file >> name;) {
        double kilobytes = 0;
        if (name == "MemAvailable:" && file >> kilobytes) return 1024 * kilobytes;
        file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    return std::numeric_limits<double>::infinity();
}

}  // namespace gnfast::cpu
