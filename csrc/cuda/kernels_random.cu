// Random matrices: the words of core/philox.hpp, in the processor's order, a thread for four neighbours in a row. About 120 integer
// steps make four words, about 60 floating-point ones in T four normals.
#include "core/philox.hpp"
#include "cuda/kernels.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {

template <class T>
void fill_normal(Stream stream, View<T> out, std::uint64_t seed, std::uint64_t sequence, double scale) {
    for_elements(stream, 1, out.rows, ceil_div(out.cols, 4), [=] __device__(index, index i, index quad) {
        const philox::Words words = philox::generate(seed, sequence, static_cast<std::uint64_t>(i), static_cast<std::uint32_t>(quad));
        T z[4];
        philox::normal_pair(words.w[0], words.w[1], z[0], z[1]);
        philox::normal_pair(words.w[2], words.w[3], z[2], z[3]);
        for (index p = 0; p < 4 && 4 * quad + p < out.cols; ++p) out.row(i)[4 * quad + p] = T(scale) * z[p];
    });
}

template <class T>
void fill_uniform(Stream stream, View<T> out, std::uint64_t seed, std::uint64_t sequence, double low, double high) {
    for_elements(stream, 1, out.rows, ceil_div(out.cols, 4), [=] __device__(index, index i, index quad) {
        const philox::Words words = philox::generate(seed, sequence, static_cast<std::uint64_t>(i), static_cast<std::uint32_t>(quad));
        for (index p = 0; p < 4 && 4 * quad + p < out.cols; ++p)
            out.row(i)[4 * quad + p] = static_cast<T>(philox::between(low, high, words.w[p]));
    });
}

// 128 signs a call of Philox, made anew by each of the 32 threads that share it: less than to pass them on by memory.
template <class T>
void fill_signs(Stream stream, View<T> out, std::uint64_t seed, std::uint64_t sequence) {
    for_elements(stream, 1, out.rows, ceil_div(out.cols, 4), [=] __device__(index, index i, index quad) {
        const philox::Words words = philox::generate(seed, sequence, static_cast<std::uint64_t>(i), static_cast<std::uint32_t>(quad / 32));
        for (index q = 4 * quad; q < 4 * quad + 4 && q < out.cols; ++q) out.row(i)[q] = philox::positive(words, q % 128) ? T(1) : T(-1);
    });
}

#define GNFAST_INSTANTIATE(T)                                                                  \
    template void fill_normal(Stream, View<T>, std::uint64_t, std::uint64_t, double);          \
    template void fill_uniform(Stream, View<T>, std::uint64_t, std::uint64_t, double, double); \
    template void fill_signs(Stream, View<T>, std::uint64_t, std::uint64_t);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
