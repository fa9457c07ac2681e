// How the .cu files start a kernel: <<<>>> under nvcc, or, where a C++ compiler reads the same files for the tests, an emulation of
// the threads of a block on the host (tests/emulation/device.hpp).
#pragma once

#include "cuda/runtime.hpp"

#ifndef __CUDACC__
#include "emulation/device.hpp"
#endif

namespace gnfast::cuda {

// Whether the threads of a block wait for each other: __syncthreads(), shared memory, warp shuffles. Only the emulation asks.
enum class Threads { independent, together };

// kernel(args...) on `grid` blocks of `block` threads with so many bytes of dynamic shared memory; returns before it has run.
template <Threads threads, class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, Stream stream, A... args) {
#ifdef __CUDACC__
    kernel<<<grid, block, shared_bytes, handle_of(stream)>>>(static_cast<P>(args)...);
    const cudaError_t status = cudaGetLastError();
#else
    const cudaError_t status =
        emulation::run(grid, block, shared_bytes, stream.handle, threads == Threads::together, [=] { kernel(static_cast<P>(args)...); });
#endif
    if (status != cudaSuccess)
        check(status, "starting a kernel on " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " + std::to_string(grid.z) +
                          " blocks of " + std::to_string(block.x) + " x " + std::to_string(block.y) + " x " + std::to_string(block.z) +
                          " threads with " + std::to_string(shared_bytes) + " bytes of shared memory");
}

}  // namespace gnfast::cuda
