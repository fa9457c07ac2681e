#include "emulation/arena.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

namespace gnfast::emulation {
namespace {

constexpr std::size_t arena_bytes = std::size_t(4) << 30, alignment = 256, page = 4096;
constexpr unsigned char fresh = 0xFF;   // all bits: NaN as float and as double, -1 as an integer
constexpr unsigned char border = 0xA5;  // between two allocations: a kernel that writes there is found out

struct Block {
    std::size_t bytes;
    int device;
};

struct Arena {
    std::recursive_mutex lock;  // the emulated device does one thing at a time
    unsigned char* base = nullptr;
    std::size_t high = 0;  // bytes that were ever handed out
    int working = 0;
    bool behind = false;  // something was asked of the device since the host last waited
    long waits = 0, calls = 0;
    std::map<std::size_t, Block> blocks;           // by offset
    std::multimap<std::size_t, std::size_t> free;  // size -> offset
    std::size_t used = 0;

    Arena() {
        void* const memory = mmap(nullptr, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) std::abort();
        base = static_cast<unsigned char*>(memory);
    }

    void protect(int how) {
        const std::size_t bytes = (high + page - 1) / page * page;
        if (bytes > 0 && mprotect(base, bytes, how) != 0) std::abort();
    }
    // Numbers with the border behind them.
    static std::size_t room(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment + alignment; }
};

Arena& arena() {
    static Arena& one = *new Arena;  // outlives everything that may still hold memory
    return one;
}

}  // namespace

DeviceWorks::DeviceWorks(bool asked) {
    Arena& a = arena();
    a.lock.lock();
    if (a.working++ == 0) a.protect(PROT_READ | PROT_WRITE);
    if (!asked) return;
    a.behind = true;
    ++a.calls;
}

DeviceWorks::~DeviceWorks() {
    Arena& a = arena();
    if (--a.working == 0) a.protect(PROT_NONE);
    a.lock.unlock();
}

void wait() {
    Arena& a = arena();
    const std::lock_guard guard(a.lock);
    if (a.behind) ++a.waits;
    a.behind = false;
}

long waits() { return arena().waits; }
long calls() { return arena().calls; }

void* allocate(std::size_t bytes, int device) {
    Arena& a = arena();
    const std::lock_guard guard(a.lock);
    const std::size_t room = Arena::room(bytes);
    std::size_t offset;
    if (const auto found = a.free.find(room); found != a.free.end()) {
        offset = found->second;
        a.free.erase(found);
    } else {
        if (a.high + room > arena_bytes) return nullptr;
        offset = a.high;
        a.high += room;
        if (a.working > 0) a.protect(PROT_READ | PROT_WRITE);
    }
    a.blocks[offset] = {bytes, device};
    a.used += room;
    const DeviceWorks open(false);
    std::memset(a.base + offset, fresh, bytes);
    std::memset(a.base + offset + bytes, border, room - bytes);
    return a.base + offset;
}

bool release(void* pointer) {
    Arena& a = arena();
    const std::lock_guard guard(a.lock);
    const auto found = a.blocks.find(std::size_t(static_cast<unsigned char*>(pointer) - a.base));
    if (found == a.blocks.end()) return false;
    const std::size_t offset = found->first, bytes = found->second.bytes, room = Arena::room(bytes);
    {
        const DeviceWorks open(false);
        for (std::size_t at = bytes; at < room; ++at)
            if (a.base[offset + at] != border) {
                std::fprintf(stderr, "emulated device: something wrote %zu bytes behind the end of an allocation of %zu bytes\n",
                             at - bytes, bytes);
                std::abort();
            }
        std::memset(a.base + offset, fresh, bytes);  // whoever still reads it gets NaN
    }
    a.blocks.erase(found);
    a.free.emplace(room, offset);
    a.used -= room;
    return true;
}

bool in_arena(const void* pointer, std::size_t bytes) {
    const Arena& a = arena();
    const auto at = reinterpret_cast<std::uintptr_t>(pointer), from = reinterpret_cast<std::uintptr_t>(a.base);
    return at < from + arena_bytes && at + bytes > from;
}

int device_of(const void* pointer, std::size_t bytes) {
    Arena& a = arena();
    if (!in_arena(pointer, 1)) return -1;
    const std::lock_guard guard(a.lock);
    const auto offset = std::size_t(static_cast<const unsigned char*>(pointer) - a.base);
    auto found = a.blocks.upper_bound(offset);
    if (found == a.blocks.begin()) return -1;
    --found;
    return offset + bytes <= found->first + found->second.bytes ? found->second.device : -1;
}

bool on_device(const void* pointer, std::size_t bytes) { return bytes == 0 || device_of(pointer, bytes) >= 0; }

std::size_t bytes_in_all() { return arena_bytes; }
std::size_t bytes_used() { return arena().used; }

}  // namespace gnfast::emulation
