#include "cpu/threads.hpp"

#include <pthread.h>

#include <atomic>

namespace gnfast::cpu {
namespace {

std::atomic<int> requested{0};  // 0: as many as OpenMP would use
std::atomic<bool> forked{false};

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

void set_num_threads(int count) { requested = count; }

int num_threads() {
    if (forked) return 1;
    const int count = requested;
    return count > 0 ? count : omp_get_max_threads();
}

}  // namespace gnfast::cpu
