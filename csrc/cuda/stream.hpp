// The stream that work is enqueued on, without a header of CUDA: what kernels.hpp and the backend speak of.
#pragma once

namespace gnfast::cuda {

struct Stream {
    void* handle = nullptr;  // a cudaStream_t; null is the default stream
};

}  // namespace gnfast::cuda
