// Threads of a block as fibers of one thread of the host: each runs until it waits, then the next one does.
#undef _FORTIFY_SOURCE  // its longjmp refuses another stack

#include "emulation/device.hpp"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <bit>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulation/arena.hpp"

constinit thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace gnfast::emulation {
namespace {

constexpr std::size_t most_shared = 48 * 1024;  // what a kernel gets without asking for more
constexpr std::size_t stack_bytes = 64 * 1024;

[[noreturn]] void fail(const std::string& what) {
    const auto place = [](const dim3& at) {
        return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
    };
    throw std::logic_error("emulated kernel, block " + place(blockIdx) + ", thread " + place(threadIdx) + ": " + what);
}

// Threads that meet: the last one that arrives lets all go.
struct Gate {
    unsigned arrived = 0, passed = 0, mask = 0;
};

struct Warp {
    Gate gates[32];  // one for each group of lanes, at its lowest lane
    std::uint64_t slots[2][32];
};

// Memory from the system with a page behind it that cannot be touched.
class Guarded {
   public:
    explicit Guarded(std::size_t bytes) {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        size_ = (bytes + page - 1) / page * page;
        void* const found = mmap(nullptr, size_ + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (found == MAP_FAILED) throw std::bad_alloc();
        all_ = static_cast<std::byte*>(found);
        mprotect(all_, page, PROT_NONE);
        mprotect(all_ + page + size_, page, PROT_NONE);
        begin_ = all_ + page;
        mapped_ = size_ + 2 * page;
    }
    Guarded(const Guarded&) = delete;
    ~Guarded() { munmap(all_, mapped_); }
    std::byte* begin() const { return begin_; }
    std::byte* end() const { return begin_ + size_; }
    std::size_t size() const { return size_; }

   private:
    std::byte *all_, *begin_;
    std::size_t size_, mapped_;
};

// One flow of control with a stack of its own; runs threads of the block one after another, the next when one has ended.
struct Fiber {
    Guarded stack{stack_bytes};
    jmp_buf at;
    bool waits = false;  // in the middle of a thread
    dim3 thread;
    const Gate* gate = nullptr;
    unsigned ticket = 0;
};

class Machine {
   public:
    void run_block(dim3 block, std::size_t shared_bytes, bool together, const std::function<void()>& body) {
        threads_ = block.x * block.y * block.z, begun_ = 0, ended_ = 0, idle_ = 0, together_ = together, body_ = &body;
        block_gate_ = Gate{};
        warps_.assign((threads_ + 31) / 32, Warp{});
        // Aligned as the strictest type asks; what the rounding leaves behind the end goes unnoticed.
        shared_ = shared_memory_.end() - (shared_bytes + 15) / 16 * 16;
        std::memset(shared_, 0xff, static_cast<std::size_t>(shared_memory_.end() - shared_));
        while (ended_ < threads_) {
            bool moved = false;
            while (begun_ < threads_) resume(idle_fiber()), moved = true;
            for (std::size_t first = 0; first < fibers_.size(); first += 32)
                while (resume_some(first)) moved = true;
            if (!moved) {
                for (const auto& fiber : fibers_)
                    if (fiber->waits) threadIdx = fiber->thread;
                abandon();
                fail("waits for threads that have ended or wait for something else");
            }
        }
    }

    void wait(Gate& gate, unsigned count) {
        if (!together_) fail("waits for others in a kernel that was started for independent threads");
        Fiber& self = *running_;
        self.gate = &gate, self.ticket = gate.passed, self.waits = true;
        if (++gate.arrived == count) gate.arrived = 0, ++gate.passed;
        leave(self);
        self.waits = false;
        threadIdx = self.thread;
    }

    void wait_for_block() { wait(block_gate_, threads_); }

    std::uint64_t exchange(unsigned mask, std::uint64_t bits, int offset) {
        const unsigned number = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x, lane = number % 32;
        const unsigned first = number - lane, lanes = threads_ - first < 32 ? threads_ - first : 32;
        const unsigned other = lane ^ static_cast<unsigned>(offset);
        if ((mask >> lane & 1u) == 0 || other > 31 || (mask >> other & 1u) == 0) fail("shuffles with a lane that its mask does not name");
        if (lanes < 32 && mask >> lanes != 0) fail("shuffles with lanes that the block does not have");
        Warp& warp = warps_[number / 32];
        Gate& gate = warp.gates[std::countr_zero(mask)];
        if (gate.arrived > 0 && gate.mask != mask) fail("shuffles with another mask than the lanes that it waits for");
        gate.mask = mask;
        // Two sets of slots: who is through may be at the next exchange before the last one has read this one's, but not at the one after.
        std::uint64_t* const slots = warp.slots[gate.passed % 2];
        slots[lane] = bits;
        wait(gate, static_cast<unsigned>(std::popcount(mask)));
        return slots[other];
    }

    void* shared() const { return shared_; }
    Order order = Order::forward;

   private:
    // Lets a warp's fibers, from the first to the last, go on to where they wait next. A warp goes as far as it can before another one does
    // a step: whoever counts on the others' pace is found out.
    bool resume_some(std::size_t first) {
        bool moved = false;
        for (std::size_t i = first; i < fibers_.size() && i < first + 32; ++i)
            if (fibers_[i]->waits && fibers_[i]->gate->passed != fibers_[i]->ticket) resume(*fibers_[i]), moved = true;
        return moved;
    }

    Fiber& idle_fiber() {
        for (; idle_ < fibers_.size(); ++idle_)
            if (!fibers_[idle_]->waits) return *fibers_[idle_];
        fibers_.push_back(std::make_unique<Fiber>());
        start(*fibers_.back());
        return *fibers_.back();
    }

    // Leaves the fiber at the top of work(), from where it is resumed.
    void start(Fiber& fiber) {
        ucontext_t context, back;
        getcontext(&context);
        context.uc_stack.ss_sp = fiber.stack.begin();
        context.uc_stack.ss_size = fiber.stack.size();
        context.uc_link = nullptr;
        running_ = &fiber, machine_ = this, back_ = &back;
        makecontext(&context, [] { machine_->work(*machine_->running_); }, 0);
        swapcontext(&back, &context);
    }

    void work(Fiber& self) {
        if (_setjmp(self.at) == 0) setcontext(back_);
        while (true) {
            while (begun_ < threads_) {
                const unsigned number = order == Order::forward ? begun_ : threads_ - 1 - begun_;
                ++begun_;
                self.thread = dim3(number % blockDim.x, number / blockDim.x % blockDim.y, number / (blockDim.x * blockDim.y));
                threadIdx = self.thread;
                try {
                    (*body_)();
                } catch (...) {
                    failure_ = std::current_exception();
                }
                if (failure_) leave(self);  // for good
                ++ended_;
            }
            leave(self);
        }
    }

    void resume(Fiber& fiber) {
        running_ = &fiber;
        if (_setjmp(main_) == 0) _longjmp(fiber.at, 1);
        if (!failure_) return;
        abandon();
        std::rethrow_exception(std::exchange(failure_, nullptr));
    }

    void leave(Fiber& fiber) {
        if (_setjmp(fiber.at) == 0) _longjmp(main_, 1);
    }

    // After a failure no thread of the block goes on; what their stacks held is lost.
    void abandon() {
        fibers_.clear();
        idle_ = 0;
    }

    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::size_t idle_ = 0;
    std::vector<Warp> warps_;
    Gate block_gate_;
    Guarded shared_memory_{most_shared};
    std::byte* shared_ = nullptr;
    unsigned threads_ = 0, begun_ = 0, ended_ = 0;
    bool together_ = false;
    const std::function<void()>* body_ = nullptr;
    Fiber* running_ = nullptr;
    ucontext_t* back_ = nullptr;
    jmp_buf main_;
    std::exception_ptr failure_;
    static thread_local Machine* machine_;
};

thread_local Machine* Machine::machine_ = nullptr;

Machine& machine() {
    static thread_local Machine one;
    return one;
}

bool launchable(dim3 grid, dim3 block, std::size_t shared_bytes) {
    const auto some = [](const dim3& of) { return of.x > 0 && of.y > 0 && of.z > 0; };
    return some(grid) && some(block) && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535 && block.x <= 1024 && block.y <= 1024 &&
           block.z <= 64 && std::size_t{block.x} * block.y * block.z <= 1024 && shared_bytes <= most_shared;
}

}  // namespace

void set_order(Order order) { machine().order = order; }
void* shared_block() { return machine().shared(); }
std::uint64_t exchange(unsigned mask, std::uint64_t bits, int offset) { return machine().exchange(mask, bits, offset); }

cudaError_t run(dim3 grid, dim3 block, std::size_t shared_bytes, void*, bool together, const std::function<void()>& body) {
    if (!launchable(grid, block, shared_bytes)) return cudaErrorInvalidConfiguration;
    const DeviceWorks open;
    gridDim = grid, blockDim = block;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = dim3(x, y, z);
                machine().run_block(block, shared_bytes, together, body);
            }
    return cudaSuccess;
}

}  // namespace gnfast::emulation

void __syncthreads() { gnfast::emulation::machine().wait_for_block(); }
