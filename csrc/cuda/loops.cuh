// How kernels walk over matrices. Every loop goes on behind the last thread of the grid; sums have an order of their own, so that a
// result does not depend on chance.
#pragma once

#include <algorithm>

#include "core/norm.hpp"
#include "core/types.hpp"
#include "cuda/launch.hpp"

namespace gnfast::cuda {

// Threads of a block, and blocks of a grid at most: some times what a GPU of today runs at once (132 processors of 8 blocks).
constexpr unsigned block_threads = 256;
constexpr index most_blocks = 1 << 12;

inline unsigned power_of_two(index length, unsigned most) {
    unsigned power = 1;
    while (power < most && index(power) < length) power *= 2;
    return power;
}

inline unsigned blocks_for(index tasks, index most = most_blocks) { return static_cast<unsigned>(std::clamp<index>(tasks, 1, most)); }

// The block's dynamic shared memory: only what a launch asked for is there, so that the emulation sees who goes beyond it.
template <class T>
__device__ T* shared_memory() {
#ifdef __CUDACC__
    extern __shared__ __align__(16) unsigned char shared_block[];
    return reinterpret_cast<T*>(shared_block);
#else
    return static_cast<T*>(emulation::shared_block());
#endif
}

// ------------------------------------------------------------------------------------------- one thread an element
template <class F>
__global__ void elements(index count, index rows, index cols, F f) {
    for (index j = index(blockIdx.z) * blockDim.z + threadIdx.z; j < count; j += index(gridDim.z) * blockDim.z)
        for (index i = index(blockIdx.y) * blockDim.y + threadIdx.y; i < rows; i += index(gridDim.y) * blockDim.y)
            for (index q = index(blockIdx.x) * blockDim.x + threadIdx.x; q < cols; q += index(gridDim.x) * blockDim.x) f(j, i, q);
}

// f(j, i, q) for `count` matrices (rows, cols), neighbours in a row on neighbouring threads, whose address arithmetic has no division.
template <class F>
void for_elements(Stream stream, index count, index rows, index cols, F f) {
    if (count <= 0 || rows <= 0 || cols <= 0) return;
    const unsigned x = power_of_two(cols, block_threads), y = power_of_two(rows, block_threads / x);
    const unsigned z = power_of_two(count, std::min(64u, block_threads / (x * y)));
    const unsigned across = blocks_for(ceil_div(cols, x)), down = blocks_for(ceil_div(rows, y), most_blocks / across);
    const unsigned deep = blocks_for(ceil_div(count, z), most_blocks / (across * down));
    launch<Threads::independent>(elements<F>, dim3(across, down, deep), dim3(x, y, z), 0, stream, count, rows, cols, f);
}

// ------------------------------------------------------------------------------------------- some lanes a row
// Neighbouring lanes of a warp, a power of two of them; see core/group.hpp. All of them must ask at the same time.
class Lanes {
   public:
    index first, step;

    __device__ explicit Lanes(unsigned width) : first(threadIdx.x % width), step(width) {
        const unsigned lane = threadIdx.x % 32;
        mask_ = width == 32 ? ~0u : ((1u << width) - 1) << (lane / width * width);
    }

    template <class T>
    __device__ T sum(T value) const {
        return fold(value, [](T a, T b) { return a + b; });
    }
    template <class T>
    __device__ T most(T value) const {
        return fold(value, [](T a, T b) { return b > a ? b : a; });
    }
    template <class T>
    __device__ T least(T value) const {
        return fold(value, [](T a, T b) { return b < a ? b : a; });
    }

   private:
    // The two partners of a step join the same two values: all lanes end with the same bits.
    template <class T, class F>
    __device__ T fold(T value, F join) const {
        for (int offset = int(step) / 2; offset > 0; offset /= 2) value = join(value, __shfl_xor_sync(mask_, value, offset));
        return value;
    }

    unsigned mask_;
};

template <class F>
__global__ void rows_by_lanes(index tasks, unsigned width, F f) {
    const Lanes lanes(width);
    const index first = (index(blockIdx.x) * blockDim.x + threadIdx.x) / width, step = index(gridDim.x) * blockDim.x / width;
    for (index task = first; task < tasks; task += step) f(task, lanes);
}

// f(task, lanes) for rows of about `length` numbers.
template <class F>
void for_rows(Stream stream, index tasks, index length, F f) {
    if (tasks <= 0) return;
    const unsigned width = power_of_two(length, 32);
    launch<Threads::together>(rows_by_lanes<F>, dim3(blocks_for(ceil_div(tasks * width, block_threads))), dim3(block_threads), 0, stream,
                              tasks, width, f);
}

// ------------------------------------------------------------------------------------------- a block for some channels
// Neighbouring channels, by threads of which lanes lie along a channel's values and rows along the samples.
class ChannelBlock {
   public:
    static constexpr unsigned columns = 32, rows = 16;
    static constexpr unsigned shared_bytes = columns * rows * sizeof(double);

    index channel;
    bool inside;  // whether there is such a channel

    __device__ ChannelBlock(const NormShape& shape, unsigned width, index tile)
        : channel(tile * (columns / width) + threadIdx.x / width), inside(channel < shape.channels), shape_(shape), lanes_(width) {}

    // f(i, at) for the channel's values in n samples that are this thread's.
    template <class F>
    __device__ void for_values(index n, F&& f) const {
        if (!inside) return;
        for (index i = threadIdx.y; i < n; i += rows)
            for (index r = 0; r < shape_.repeats(); ++r)
                for (index q = lanes_.first; q < shape_.inner; q += lanes_.step) f(i, (r * shape_.channels + channel) * shape_.inner + q);
    }

    // Over the channel's threads, to each of them; all threads of the block must ask.
    __device__ double sum(double value) const {
        double* const shared = shared_memory<double>();
        shared[threadIdx.y * columns + threadIdx.x] = lanes_.sum(value);
        __syncthreads();
        double total = 0;
        for (unsigned y = 0; y < rows; ++y) total += shared[y * columns + threadIdx.x];
        __syncthreads();
        return total;
    }

    __device__ bool leads() const { return inside && threadIdx.y == 0 && lanes_.first == 0; }

   private:
    const NormShape& shape_;
    Lanes lanes_;
};

template <class F>
__global__ void channels_by_blocks(index members, NormShape shape, unsigned width, F f) {
    const index tiles = ceil_div(shape.channels, index(ChannelBlock::columns / width));
    for (index task = blockIdx.x; task < members * tiles; task += gridDim.x) f(task / tiles, ChannelBlock(shape, width, task % tiles));
}

// f(member, block) for all members and blocks of channels; values are read once for each for_values.
template <class F>
void for_channels(Stream stream, index members, const NormShape& shape, F f) {
    if (members <= 0 || shape.channels <= 0) return;
    const unsigned width = power_of_two(shape.inner, ChannelBlock::columns);
    const index tiles = ceil_div(shape.channels, index(ChannelBlock::columns / width));
    launch<Threads::together>(channels_by_blocks<F>, dim3(blocks_for(members * tiles, most_blocks / 4)),
                              dim3(ChannelBlock::columns, ChannelBlock::rows), ChannelBlock::shared_bytes, stream, members, shape, width,
                              f);
}

}  // namespace gnfast::cuda
