// The part of the CUDA language that our kernels use, for a C++ compiler: the .cu files are compiled as C++ and run on the host,
// thread by thread. What is left out (static __shared__ arrays, atomics, other shuffles) does not compile.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__

// Where the thread that runs now stands.
extern constinit thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

void __syncthreads();

namespace gnfast::emulation {

// Whether the threads of a block run from the first to the last or the other way: a result that depends on it lacks a barrier.
enum class Order { forward, backward };
void set_order(Order order);

// body() for each thread of each block, one block after another. A thread that waits is left for the next one and goes on when all have
// arrived. What a GPU refuses is returned as its error (limits of blocks, grids and shared memory); what would hang or be undefined on one
// throws std::logic_error: threads that wait for others which have ended or wait elsewhere, waiting where `together` is false.
// Dynamic shared memory is NaN at the start of each block and ends where memory does that cannot be touched.
cudaError_t run(dim3 grid, dim3 block, std::size_t shared_bytes, void* stream, bool together, const std::function<void()>& body);

void* shared_block();
// Puts 8 bytes of this lane's where lane `lane ^ offset` of its warp finds them, and finds the other's.
std::uint64_t exchange(unsigned mask, std::uint64_t bits, int offset);

}  // namespace gnfast::emulation

// Exchanges between the lanes of a warp that `mask` names, all of which must come.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
    static_assert(std::is_arithmetic_v<T> && sizeof(T) <= sizeof(std::uint64_t));
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = gnfast::emulation::exchange(mask, bits, offset);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}
