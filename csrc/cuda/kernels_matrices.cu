// Transposition, by tiles in shared memory, and the steps of the Gram matrix around its products.
#include "core/triangle.hpp"
#include "cuda/kernels.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {
namespace {

// Tiles are read and written along their rows; a column more than they have keeps a column's numbers in different banks.
constexpr unsigned tile = 32, tile_rows = 8, tile_stride = tile + 1;

// Lower: of a square matrix what lies below the diagonal, to its mirror image.
template <bool Lower, class T>
__global__ void transpose_tiles(Batch<const T> in, Batch<T> out) {
    T* const shared = shared_memory<T>();
    const index across = ceil_div(in.first.cols, index(tile)), down = ceil_div(in.first.rows, index(tile));
    for (index task = blockIdx.x; task < in.count * across * down; task += gridDim.x) {
        const index j = task / (across * down), row = task / across % down, col = task % across;
        if (Lower && col > row) continue;  // all of the block
        const View<const T> from = in[j];
        const View<T> to = out[j];
        for (unsigned y = threadIdx.y; y < tile; y += tile_rows) {
            const index a = row * tile + y, b = col * tile + threadIdx.x;
            if (a < from.rows && b < from.cols && (!Lower || b < a)) shared[y * tile_stride + threadIdx.x] = from.row(a)[b];
        }
        __syncthreads();
        for (unsigned y = threadIdx.y; y < tile; y += tile_rows) {
            const index a = row * tile + threadIdx.x, b = col * tile + y;
            if (a < from.rows && b < from.cols && (!Lower || b < a)) to.row(b)[a] = shared[threadIdx.x * tile_stride + y];
        }
        __syncthreads();
    }
}

template <bool Lower, class T>
void transpose_by_tiles(Stream stream, Batch<const T> in, Batch<T> out) {
    const index tasks = in.count * ceil_div(in.first.rows, index(tile)) * ceil_div(in.first.cols, index(tile));
    if (tasks == 0) return;
    launch<Threads::together>(transpose_tiles<Lower, T>, dim3(blocks_for(tasks)), dim3(tile, tile_rows), tile * tile_stride * sizeof(T),
                              stream, in, out);
}

// out((i, a), (j, b)) = (inputs(i, j) + bias) other(i, a, j, b), added to it unless it is the first.
template <class T, class F>
__device__ void multiply_factors(View<const T> inputs, T bias, index r, View<T> out, bool first, index row, index col, F&& other) {
    const index i = row / r, j = col / r;
    const T value = (inputs.row(i)[j] + bias) * other(i, row - i * r, j, col - j * r);
    T& target = out.row(row)[col];
    target = first ? value : target + value;
}

}  // namespace

// 2 w N bytes.
template <class T>
void transpose(Stream stream, Batch<const T> in, Batch<T> out) {
    transpose_by_tiles<false>(stream, in, out);
}

template <class T>
void mirror_lower(Stream stream, View<T> a) {
    transpose_by_tiles<true>(stream, Batch<const T>(View<const T>(a), 1, 0), Batch<T>(a, 1, 0));
}

// 3 w N bytes and 2 or 3 N flops for a tile of N numbers, whose products take 2 N fan_out flops: at 4 TB/s and 50 Tflop/s of float32 the
// time of 75 units of fan_out.
template <class T>
void hadamard(Stream stream, View<const T> inputs, T bias, index r, View<const T> rows, View<T> out, bool lower_only, bool first) {
    for_elements(stream, 1, out.rows, out.cols, [=] __device__(index, index row, index col) {
        if (lower_only && col > row) return;
        multiply_factors(inputs, bias, r, out, first, row, col, [&](index, index, index, index) { return rows.row(row)[col]; });
    });
}

template <class T>
void hadamard_pairs(Stream stream, View<const T> inputs, T bias, index r, View<const T> products, View<T> out, bool lower_only,
                    bool first) {
    const index samples = inputs.rows;
    for_elements(stream, 1, out.rows, out.cols, [=] __device__(index, index row, index col) {
        if (lower_only && col > row) return;
        multiply_factors(inputs, bias, r, out, first, row, col, [&](index i, index a, index j, index b) {
            return products.row(triangle::number(a < b ? a : b, a < b ? b : a, r) * samples + i)[j];
        });
    });
}

template <class T>
void hadamard_shared(Stream stream, View<const T> inputs, T bias, index r, View<const T> weights, View<T> out, bool lower_only,
                     bool first) {
    for_elements(stream, 1, out.rows, out.cols, [=] __device__(index, index row, index col) {
        if (lower_only && col > row) return;
        multiply_factors(inputs, bias, r, out, first, row, col, [&](index, index a, index, index b) { return weights.row(a)[b]; });
    });
}

// w N bytes for N numbers that are written: what is read is small beside it.
template <class T>
void pair_rows(Stream stream, View<const T> factor, View<const T> derivative, index first_pair, View<T> out) {
    const index r = factor.rows, samples = derivative.rows;
    for_elements(stream, samples == 0 ? 0 : out.rows / samples, samples, factor.cols, [=] __device__(index p, index i, index q) {
        const triangle::Pair pair = triangle::pair(first_pair + p, r);
        out.row(p * samples + i)[q] = factor.row(pair.a)[q] * factor.row(pair.b)[q] * derivative.row(i)[q];
    });
}

#define GNFAST_INSTANTIATE(T)                                                                           \
    template void transpose(Stream, Batch<const T>, Batch<T>);                                          \
    template void mirror_lower(Stream, View<T>);                                                        \
    template void hadamard(Stream, View<const T>, T, index, View<const T>, View<T>, bool, bool);        \
    template void hadamard_pairs(Stream, View<const T>, T, index, View<const T>, View<T>, bool, bool);  \
    template void hadamard_shared(Stream, View<const T>, T, index, View<const T>, View<T>, bool, bool); \
    template void pair_rows(Stream, View<const T>, View<const T>, index, View<T>);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
