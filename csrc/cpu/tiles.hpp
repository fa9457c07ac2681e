// Sums over the columns of matrices that are too wide to exist: a tile of columns at a time, on one thread each, staying in the second
// cache.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/buffer.hpp"
#include "cpu/calls.hpp"
#include "cpu/kernels.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu {

// The verbs of algo/neurons.hpp on the calling thread.
class TileVerbs {
   public:
    using buffer = Buffer<double>;
    class constant {
       public:
        explicit constant(View<const double> host) : view_(host) {}
        View<const double> view() const { return view_; }

       private:
        View<const double> view_;
    };

    TileVerbs(index, index cols) : single_(cols) {}

    void draw(std::uint64_t seed, std::uint64_t stream, index first, View<double> out) {
        for (index i = 0; i < out.rows; ++i) {
            kernels::normal_row(seed, stream, std::uint64_t(i), std::uint64_t(first), 1.0, single_.data(), out.cols);
            std::copy_n(single_.data(), out.cols, out.row(i));
        }
    }
    void multiply(View<const double> a, View<const double> b, View<double> out) { call::gemm(Op::none, Op::none, 1.0, a, b, 0.0, out); }
    void add_multiplied(View<const double> a, View<const double> b, View<double> out) {
        call::gemm(Op::none, Op::transpose, 1.0, a, b, 1.0, out);
    }
    void add_gram(View<const double> a, View<double> out) { call::syrk(1.0, a, 1.0, out); }
    template <class F>
    void apply(F formula, View<double> z, View<double> derivative) {
        for (index i = 0; i < z.rows; ++i) {
            double *const value = z.row(i), *const slope = derivative.row(i);
            for (index j = 0; j < z.cols; ++j) formula(value[j], value[j], slope[j]);
        }
    }
    void scale_add(double alpha, View<const double> in, View<double> out) {
        for (index i = 0; i < out.rows; ++i) kernels::combine(alpha, in.row(i), 1.0, out.row(i), out.cols);
    }
    void multiply_row_groups(View<double> x, View<const double> d, index group) {
        for (index i = 0; i < x.rows; ++i) kernels::multiply(d.row(i / group), x.row(i), x.cols);
    }
    void read(View<const double> in, View<double> host) {
        for (index i = 0; i < in.rows; ++i) std::copy_n(in.row(i), in.cols, host.row(i));
    }

   private:
    Buffer<float> single_;
};

// See algo/neurons.hpp. Chunks of tiles are summed on one thread each and added in their order, so that the number of threads changes
// nothing. All are as long, and their number suits 2, 4 or 8 threads: 10^4 columns in tiles of 192 would leave one of two idle for a
// twelfth of the time.
template <class Make, class Work>
void sum_tiles(index numbers, index tile, index first, index last, View<double> sums, Make&& make, Work&& work) {
    constexpr index cache = 96 * 1024;  // doubles that a tile may fill; for 100 samples 64 to 512 neurons took the same time within 7 %
    constexpr index least = 128, most = 512, tiles = 4, even = 8;
    const index limit = tile ? tile : std::clamp(cache / std::max<index>(1, numbers) / 64 * 64, least, most), length = last - first;
    const index wanted = std::min(ceil_div(ceil_div(length, tiles * limit), even) * even, ceil_div(length, limit));
    const auto divided = [](index whole, index parts) { return ceil_div(ceil_div(whole, parts), 4) * 4; };  // draws come in fours
    const index chunk = divided(length, wanted), size = divided(chunk, ceil_div(chunk, limit)), chunks = ceil_div(length, chunk);
    const index slots = std::min<index>(num_threads(), chunks), entries = sums.rows * sums.cols;
    std::vector<decltype(make(size))> spaces;
    for (index s = 0; s < slots; ++s) spaces.push_back(make(size));
    Buffer<double> memory(slots * entries);
    for (index c = 0; c < chunks; c += slots) {
        const index now = std::min(slots, chunks - c);
        parallel_for(now, [&](index s) {
            const View<double> mine(memory.data() + s * entries, sums.rows, sums.cols);
            std::fill_n(mine.data, entries, 0.0);
            const index begin = first + (c + s) * chunk, end = std::min(last, begin + chunk);
            for (index at = begin; at < end; at += size) work(spaces[std::size_t(s)], at, std::min(size, end - at), mine);
        });
        parallel_ranges(sums.rows, ceil_div(16384, sums.cols), [&](index row, index count) {
            for (index s = 0; s < now; ++s)
                for (index i = row; i < row + count; ++i)
                    kernels::combine(1.0, memory.data() + s * entries + i * sums.cols, 1.0, sums.row(i), sums.cols);
        });
    }
}

}  // namespace gnfast::cpu
