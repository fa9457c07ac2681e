// Convolutions as products of matrices whose second factor, the patches, is never in memory: its numbers are read from the images,
// where they are wanted, straight into a block's shared memory ("implicit GEMM"). With r rows of weights a number of a patch takes part
// in 2 r flops; stored, it is written once and read once by the product, so that below some 80 rows memory is what a GPU waits for.
// 2 rows patch N flops for N columns; each image is read taps / stride^2 times, from the cache for all but one.
#include "cuda/kernels.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {
namespace {

// A block makes tile_rows x tile_columns numbers, a thread 8 x 4 of them, from tile_depth rows of the patches at a time.
constexpr int tile_rows = 16, tile_columns = 256, tile_depth = 16, threads = 128;
constexpr int own_rows = 8, own_columns = 4, lanes = tile_columns / own_columns;
constexpr unsigned shared_numbers = tile_depth * (tile_rows + tile_columns);

// What a grid member holds, with sizes that the device divides by quickly.
template <class T>
struct Members {
    T* data;
    index stride, outer_step, inner_step;

    explicit Members(const Grid<T>& g) : data(g.first.data), stride(g.first.stride), outer_step(g.outer_step), inner_step(g.inner_step) {}
    __device__ T* at(index j, index i) const { return data + j * outer_step + i * inner_step; }
};

// Row k of the patches is (channel, tap y, tap x), a column one position of an image.
template <class T>
struct Forward {
    Windows w;

    __device__ int depth() const { return int(w.patch()); }
    __device__ T weight(const T* weights, index stride, int row, int k) const { return weights[row * stride + k]; }
    struct Column {
        index y, x;
    };
    __device__ Column column(index q) const { return {q / w.x.positions, q % w.x.positions}; }
    __device__ T value(const T* image, index stride, const Column& at, int channel, int tap_y, int tap_x) const {
        const index y = w.y.pixel(at.y, tap_y, w.circular), x = w.x.pixel(at.x, tap_x, w.circular);
        return y < 0 || x < 0 ? T(0) : image[channel * stride + y * w.x.size + x];
    }
};

// The adjoint: row k is (output channel, tap y, tap x), a column one pixel, and the number what stood at the position whose tap reads
// the pixel. A circular image's pixel also lies one size further on either side.
template <class T>
struct Backward {
    Windows w;
    index outputs;  // channels of it

    __device__ int depth() const { return int(outputs * w.taps()); }
    __device__ T weight(const T* weights, index stride, int row, int k) const {
        const int taps = int(w.taps());
        return weights[k / taps * stride + row * taps + k % taps];
    }
    struct Column {
        index y, x;
    };
    __device__ Column column(index q) const { return {q / w.x.size, q % w.x.size}; }
    __device__ T value(const T* outs, index stride, const Column& at, int channel, int tap_y, int tap_x) const {
        const index turns = w.circular ? 1 : 0;
        T total = 0;
        for (index up = -turns; up <= turns; ++up) {
            const index y = w.y.position(at.y + up * w.y.size, tap_y);
            if (y < 0) continue;
            for (index over = -turns; over <= turns; ++over) {
                const index x = w.x.position(at.x + over * w.x.size, tap_x);
                if (x >= 0) total += outs[channel * stride + y * w.x.positions + x];
            }
        }
        return total;
    }
};

// out_ji = beta out_ji + weights_j times the numbers of `from`_ji. Columns go on from one image to the next.
template <class T, class Way>
__global__ void implicit_product(Way way, Members<const T> weights, Members<const T> from, T beta, Members<T> out, index outer, index rows,
                                 index columns, index images) {
    T* const left = shared_memory<T>();              // (depth, rows)
    T* const right = left + tile_depth * tile_rows;  // (depth, columns)
    const int lane = int(threadIdx.x) % lanes, band = int(threadIdx.x) / lanes;
    const int depth = way.depth(), taps = int(way.w.taps()), across = int(way.w.x.kernel);
    const index row_tiles = ceil_div(rows, index(tile_rows)), column_tiles = ceil_div(columns * images, index(tile_columns));
    for (index task = blockIdx.x; task < outer * row_tiles * column_tiles; task += gridDim.x) {
        const index j = task / (row_tiles * column_tiles), first_row = task % row_tiles * tile_rows;
        const index first_column = task / row_tiles % column_tiles * tile_columns;
        T sums[own_rows][own_columns] = {};
        for (int first = 0; first < depth; first += tile_depth) {
            for (int at = int(threadIdx.x); at < tile_depth * tile_rows; at += threads) {
                const int k = first + at % tile_depth, row = at / tile_depth;
                left[at % tile_depth * tile_rows + row] =
                    k < depth && first_row + row < rows ? way.weight(weights.at(j, 0), weights.stride, int(first_row) + row, k) : T(0);
            }
            for (int c = int(threadIdx.x); c < tile_columns; c += threads) {
                const index place = first_column + c, image = place / columns;
                const bool inside = image < images;
                const T* const source = inside ? from.at(j, image) : nullptr;
                const auto column = way.column(place % columns);
                int channel = first / taps, tap_y = first % taps / across, tap_x = first % across;
                for (int k = 0; k < tile_depth; ++k) {
                    right[k * tile_columns + c] =
                        inside && first + k < depth ? way.value(source, from.stride, column, channel, tap_y, tap_x) : T(0);
                    if (++tap_x < across) continue;
                    tap_x = 0;
                    if (++tap_y * across < taps) continue;
                    tap_y = 0;
                    ++channel;
                }
            }
            __syncthreads();
            for (int k = 0; k < tile_depth; ++k)
                for (int r = 0; r < own_rows; ++r) {
                    const T factor = left[k * tile_rows + band * own_rows + r];
                    for (int c = 0; c < own_columns; ++c) sums[r][c] += factor * right[k * tile_columns + c * lanes + lane];
                }
            __syncthreads();
        }
        for (int c = 0; c < own_columns; ++c) {
            const index place = first_column + c * lanes + lane, image = place / columns;
            if (image >= images) continue;
            T* const target = out.at(j, image) + place % columns;
            for (int r = 0; r < own_rows; ++r) {
                const index row = first_row + band * own_rows + r;
                if (row < rows) norm::assign(target[row * out.stride], beta, sums[r][c]);
            }
        }
    }
}

template <class T, class Way>
void start(Stream stream, Way way, const Grid<const T>& weights, const Grid<const T>& from, T beta, const Grid<T>& out) {
    const index rows = out.first.rows, columns = out.first.cols;
    const index tasks = out.outer * ceil_div(rows, index(tile_rows)) * ceil_div(columns * out.inner, index(tile_columns));
    if (tasks <= 0) return;
    launch<Threads::together>(implicit_product<T, Way>, dim3(blocks_for(tasks)), dim3(threads), shared_numbers * sizeof(T), stream, way,
                              Members<const T>(weights), Members<const T>(from), beta, Members<T>(out), out.outer, rows, columns,
                              out.inner);
}

}  // namespace

template <class T>
void convolve(Stream stream, Grid<const T> weights, Grid<const T> images, const Windows& windows, T beta, Grid<T> out) {
    start(stream, Forward<T>{windows}, weights, images, beta, out);
}

template <class T>
void convolve_back(Stream stream, Grid<const T> weights, Grid<const T> g, const Windows& windows, T beta, Grid<T> images) {
    start(stream, Backward<T>{windows, g.first.rows}, weights, g, beta, images);
}

#define GNFAST_INSTANTIATE(T)                                                                 \
    template void convolve(Stream, Grid<const T>, Grid<const T>, const Windows&, T, Grid<T>); \
    template void convolve_back(Stream, Grid<const T>, Grid<const T>, const Windows&, T, Grid<T>);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
