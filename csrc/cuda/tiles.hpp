// Sums over the columns of matrices that are too wide to exist, a tile of columns at a time: they stay on the device until the last tile is
// in them.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/buffer.hpp"
#include "cuda/calls.hpp"
#include "cuda/kernels.hpp"
#include "cuda/runtime.hpp"

namespace gnfast::cuda {

// The verbs of algo/neurons.hpp, enqueued on the current stream. Draws are made in float32 in a room of their own.
class TileVerbs {
   public:
    using buffer = Buffer<double>;
    class constant {
       public:
        explicit constant(View<const double> host) : buffer_(host.rows * host.cols), rows_(host.rows), cols_(host.cols) {
            if (buffer_.size() > 0) upload(host.data, host.stride, buffer_.data(), cols_, rows_, cols_, sizeof(double));
        }
        View<const double> view() const { return {buffer_.data(), rows_, cols_}; }

       private:
        Buffer<double> buffer_;
        index rows_, cols_;
    };

    TileVerbs(index rows, index cols) : single_(rows * cols) {}

    void draw(std::uint64_t seed, std::uint64_t stream, index first, View<double> out) {
        if (out.rows == 0 || out.cols == 0) return;
        const View<float> single(single_.data(), out.rows, out.cols);
        kernels::fill_normal(current_stream(), single, seed, stream, 1.0, first);
        kernels::copy(current_stream(), View<const float>(single), out);
    }
    void multiply(View<const double> a, View<const double> b, View<double> out) { call::gemm(Op::none, Op::none, 1.0, a, b, 0.0, out); }
    void add_multiplied(View<const double> a, View<const double> b, View<double> out) {
        call::gemm(Op::none, Op::transpose, 1.0, a, b, 1.0, out);
    }
    void add_gram(View<const double> a, View<double> out) { call::syrk(1.0, a, 1.0, out); }
    template <class F>
    void apply(F formula, View<double> z, View<double> derivative) {
        kernels::apply(current_stream(), formula, View<const double>(z), z, derivative);
    }
    void scale_add(double alpha, View<const double> in, View<double> out) { kernels::scale_add(current_stream(), alpha, in, 1.0, out); }
    void multiply_row_groups(View<double> x, View<const double> d, index group) {
        kernels::multiply_row_groups(current_stream(), x, d, group);
    }
    // Waits.
    void read(View<const double> in, View<double> host) {
        download(in.data, in.stride, host.data, host.stride, in.rows, in.cols, sizeof(double));
    }

   private:
    Buffer<float> single_;
};

// See algo/neurons.hpp. Waits once, at the end.
template <class Make, class Work>
void sum_tiles(index numbers, index tile, index first, index last, View<double> sums, Make&& make, Work&& work) {
    constexpr double room = 1024.0 * 1024 * 1024;  // bytes of a tile: fills a GPU many times over, small beside its memory
    const index fitting = std::max<index>(128, index(room / (sizeof(double) * double(std::max<index>(1, numbers)))) / 64 * 64);
    const index size = tile ? tile : std::min(fitting, ceil_div(last - first, 4) * 4);
    auto space = make(size);
    const Buffer<double> memory(sums.rows * sums.cols);
    const View<double> mine(memory.data(), sums.rows, sums.cols);
    kernels::fill(current_stream(), mine, 0.0);
    for (index at = first; at < last; at += size) work(space, at, std::min(size, last - at), mine);
    std::vector<double> host(static_cast<std::size_t>(sums.rows * sums.cols));
    download(mine.data, mine.stride, host.data(), sums.cols, sums.rows, sums.cols, sizeof(double));
    for (index i = 0; i < sums.rows; ++i)
        for (index j = 0; j < sums.cols; ++j) sums.row(i)[j] += host[static_cast<std::size_t>(i * sums.cols + j)];
}

}  // namespace gnfast::cuda
