// The one place where threads are started: an OpenMP loop in which BLAS is single-threaded.
//
// OpenMP's threads and OpenBLAS' own would wait for work by spinning on each other's cores (small products ran up to
// 40 times slower so). Here every product is split by us and called inside the loop, so that OpenBLAS never wakes its
// threads; benchmarks/threads.py would show the loss again.
#pragma once

#include <omp.h>

#include <exception>
#include <utility>

#include "core/types.hpp"
#include "cpu/blas.hpp"

namespace gnfast::cpu {

void set_num_threads(int count);
// 1 in a forked child: libgomp's threads do not survive a fork, and waiting for them would hang.
int num_threads();

// f(i) for i in [0, tasks), each on one thread, in any order. The first exception is thrown again here.
template <class F>
void parallel_for(index tasks, F&& f) {
    const SingleThreadedBlas guard;
    const int threads = static_cast<int>(std::min<index>(num_threads(), tasks));
    if (threads <= 1) {
        for (index i = 0; i < tasks; ++i) f(i);
        return;
    }
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (index i = 0; i < tasks; ++i) {
        try {
            f(i);
        } catch (...) {
#pragma omp critical(gnfast_failure)
            if (!failure) failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

// [0, length) in one contiguous part per thread, none shorter than `grain`: f(first, count).
template <class F>
void parallel_ranges(index length, index grain, F&& f) {
    const index parts = std::max<index>(1, std::min<index>(num_threads(), length / std::max<index>(1, grain)));
    parallel_for(parts, [&](index part) {
        const index first = length * part / parts, last = length * (part + 1) / parts;
        if (last > first) f(first, last - first);
    });
}

}  // namespace gnfast::cpu
