// The emulation of the CUDA language itself: that threads wait for each other as they would, and that it sees what a GPU would not forgive.
#include "check.hpp"
#include "cuda/launch.hpp"
#include "cuda/loops.cuh"
#include "matrices.hpp"

namespace gnfast::cuda {
namespace {

template <class Error, class F>
bool throws(F&& f) {
    try {
        f();
    } catch (const Error&) {
        return true;
    }
    return false;
}

// Each thread writes its number and reads its neighbour's.
__global__ void rotate(bool wait, double* out) {
    double* const shared = shared_memory<double>();
    shared[threadIdx.x] = double(threadIdx.x);
    if (wait) __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

TEST("cuda_language: threads of a block meet at a barrier, and without one read what is not there yet") {
    constexpr unsigned threads = 97, blocks = 3;
    for (const auto order : {emulation::Order::forward, emulation::Order::backward}) {
        emulation::set_order(order);
        std::vector<double> out(threads * blocks);
        launch<Threads::together>(rotate, dim3(blocks), dim3(threads), threads * sizeof(double), Stream{}, true, out.data());
        for (unsigned i = 0; i < out.size(); ++i) CHECK(out[i] == double((i % threads + 1) % threads));
        launch<Threads::independent>(rotate, dim3(blocks), dim3(threads), threads * sizeof(double), Stream{}, false, out.data());
        // Memory that no thread has written is NaN, in the second block as well.
        const unsigned early = order == emulation::Order::forward ? 0 : threads - 1;
        CHECK(std::isnan(out[early]) && std::isnan(out[threads + early]));
    }
    emulation::set_order(emulation::Order::forward);
}

__global__ void positions(unsigned* out) {
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1000 * block + thread;
}

TEST("cuda_language: every thread of every block runs once") {
    std::vector<unsigned> out(2 * 3 * 4 * 5 * 2 * 3);
    launch<Threads::independent>(positions, dim3(2, 3, 4), dim3(5, 2, 3), 0, Stream{}, out.data());
    for (unsigned i = 0; i < out.size(); ++i) CHECK(out[i] == 1000 * (i / 30) + i % 30);
}

__global__ void fold(unsigned width, double* sums, index* least, float* most) {
    const Lanes lanes(width);
    const unsigned i = threadIdx.x;
    sums[i] = lanes.sum(double(i));
    least[i] = lanes.least(index(100) - index(i));
    most[i] = lanes.most(float(i % 7));
}

TEST("cuda_language: lanes of a warp add up, whole warps and parts of them") {
    constexpr unsigned threads = 96;
    for (const unsigned width : {1u, 2u, 8u, 32u}) {
        std::vector<double> sums(threads);
        std::vector<index> least(threads);
        std::vector<float> most(threads);
        launch<Threads::together>(fold, dim3(1), dim3(threads), 0, Stream{}, width, sums.data(), least.data(), most.data());
        for (unsigned i = 0; i < threads; ++i) {
            double total = 0;
            float top = 0;
            for (unsigned j = i / width * width; j < (i / width + 1) * width; ++j) total += j, top = std::max(top, float(j % 7));
            CHECK(sums[i] == total && least[i] == 100 - index(i / width * width + width - 1) && most[i] == top);
        }
    }
}

__global__ void leave_early() {
    if (threadIdx.x < 3) return;
    __syncthreads();
}
__global__ void wait_at_two_places() {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __shfl_xor_sync(~0u, 1, 1);
}
__global__ void ask_a_stranger() { __shfl_xor_sync(0xffu, 1, 8); }
__global__ void wait_once() { __syncthreads(); }

TEST("cuda_language: what would hang or be undefined is an error, and the next kernel runs again") {
    const auto start = [](void (*kernel)(), unsigned threads) { launch<Threads::together>(kernel, dim3(2), dim3(threads), 0, Stream{}); };
    for (int again = 0; again < 2; ++again) {
        CHECK(throws<std::logic_error>([&] { start(leave_early, 64); }));
        CHECK(throws<std::logic_error>([&] { start(wait_at_two_places, 63); }));
        CHECK(throws<std::logic_error>([&] { start(ask_a_stranger, 8); }));
        CHECK(throws<std::logic_error>([] { launch<Threads::independent>(wait_once, dim3(1), dim3(8), 0, Stream{}); }));
        start(wait_once, 64);
    }
}

TEST("cuda_language: blocks, grids and shared memory have limits") {
    const auto refused = [](dim3 grid, dim3 block, std::size_t shared_bytes) {
        return throws<std::runtime_error>([&] { launch<Threads::together>(wait_once, grid, block, shared_bytes, Stream{}); });
    };
    CHECK(!refused(dim3(1), dim3(1024), 48 * 1024));
    CHECK(refused(dim3(1), dim3(1025), 0) && refused(dim3(1), dim3(32, 33), 0) && refused(dim3(1), dim3(1, 1, 65), 0));
    CHECK(refused(dim3(0), dim3(1), 0) && refused(dim3(1), dim3(0), 0));
    CHECK(refused(dim3(1, 65536), dim3(1), 0) && refused(dim3(1, 1, 65536), dim3(1), 0) && refused(dim3(1u << 31), dim3(1), 0));
    CHECK(refused(dim3(1), dim3(1), 48 * 1024 + 1));
}

}  // namespace
}  // namespace gnfast::cuda
