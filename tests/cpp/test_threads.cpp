// The one loop that starts threads: every task once, exceptions out of it, a forked child on its own.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "cpu/threads.hpp"

namespace {

using namespace gnfast;

// The number of threads for one test, and the one before it again afterwards.
class Threads {
   public:
    explicit Threads(int count) : before_(cpu::num_threads()) { cpu::set_num_threads(count); }
    ~Threads() { cpu::set_num_threads(before_); }

   private:
    int before_;
};

TEST("threads: parallel_for runs every task once") {
    for (const int threads : {1, 2, 5})
        for (const index tasks : {0, 1, 2, 3, 100}) {
            const Threads set(threads);
            std::vector<std::atomic<int>> seen(static_cast<std::size_t>(tasks));
            cpu::parallel_for(tasks, [&](index i) { ++seen[static_cast<std::size_t>(i)]; });
            for (const auto& count : seen) CHECK(count == 1);
        }
}

TEST("threads: parallel_ranges covers every index once and keeps to its grain") {
    for (const int threads : {1, 2, 5})
        for (const index length : {0, 1, 4, 7, 100})
            for (const index grain : {0, 1, 3, 40, 1000}) {
                const Threads set(threads);
                std::vector<std::atomic<int>> seen(static_cast<std::size_t>(length));
                std::atomic<index> parts{0};
                cpu::parallel_ranges(length, grain, [&](index first, index count) {
                    ++parts;
                    for (index i = first; i < first + count; ++i) ++seen[static_cast<std::size_t>(i)];
                });
                for (const auto& count : seen) CHECK(count == 1);
                CHECK(parts <= threads);
                CHECK(length == 0 ? parts == 0 : parts >= 1 && (parts == 1 || parts * grain <= length));
            }
}

TEST("threads: an exception of a task comes out, whatever the others do") {
    for (const int threads : {1, 3}) {
        const Threads set(threads);
        std::string caught;
        try {
            cpu::parallel_for(50, [](index i) {
                if (i == 17) throw std::domain_error("task 17");
            });
        } catch (const std::domain_error& error) {
            caught = error.what();
        }
        CHECK(caught == "task 17");
        std::atomic<int> after{0};  // and the next loop is as good as ever
        cpu::parallel_for(50, [&](index) { ++after; });
        CHECK(after == 50);
    }
}

TEST("threads: loops of several callers at once") {
    const Threads set(3);
    std::atomic<int> total{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller)
        callers.emplace_back([&] {
            for (int again = 0; again < 20; ++again) cpu::parallel_for(10, [&](index) { ++total; });
        });
    for (std::thread& caller : callers) caller.join();
    CHECK(total == 4 * 20 * 10);
}

TEST("threads: a forked child works alone and does not hang") {
    const Threads set(4);
    cpu::parallel_for(8, [](index) {});  // the parent has threads now, which the child will not have
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(20);  // a child that hangs is ended, and that is a failure
        int sum = 0;
        const bool alone = cpu::num_threads() == 1;
        cpu::parallel_for(8, [&](index i) { sum += static_cast<int>(i); });
        _exit(alone && sum == 28 ? 0 : 3);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(cpu::num_threads() == 4);
}

}  // namespace
