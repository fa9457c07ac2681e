// Inner products of long rows, and the two contractions with the backward rows, which are products of thin matrices, one for each sample.
#include "cuda/kernels.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {
namespace {

constexpr unsigned warps = block_threads / 32;

__device__ inline index at_most(index i, index last) { return i < last ? i : last; }

// ------------------------------------------------------------------------------------------- row_dots
// Numbers of a row that are worth a block: 64 for each of its threads.
constexpr index part_length = 64 * block_threads;
constexpr index most_parts = 1024;

index parts_of(index cols) { return std::clamp<index>(cols / part_length, 1, most_parts); }

template <class T>
__global__ void partial_dots(View<const T> a, View<const T> b, index parts, double* out) {
    double* const shared = shared_memory<double>();
    for (index task = blockIdx.x; task < a.rows * parts; task += gridDim.x) {
        const index part = task % parts, first = a.cols * part / parts, last = a.cols * (part + 1) / parts;
        const T *const x = a.row(task / parts), *const y = b.row(task / parts);
        double total = 0;
        for (index q = first + threadIdx.x; q < last; q += blockDim.x) total += double(x[q]) * double(y[q]);
        total = Lanes(32).sum(total);
        if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = total;
        __syncthreads();
        if (threadIdx.x == 0) {
            total = 0;
            for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += shared[warp];
            out[task] = total;
        }
        __syncthreads();
    }
}

}  // namespace

index row_dots_room(index rows, index cols) { return rows * (parts_of(cols) == 1 ? 1 : 1 + parts_of(cols)); }

// 2 w N bytes for N pairs of numbers of w bytes; 2 N flops in double.
template <class T>
void row_dots(Stream stream, View<const T> a, View<const T> b, double* out) {
    const index rows = a.rows, parts = parts_of(a.cols);
    if (rows == 0) return;
    const unsigned threads = std::max(32u, power_of_two(a.cols, block_threads));
    double* const partial = parts == 1 ? out : out + rows;
    launch<Threads::together>(partial_dots<T>, dim3(blocks_for(rows * parts)), dim3(threads), warps * sizeof(double), stream, a, b, parts,
                              partial);
    if (parts == 1) return;
    for_rows(stream, rows, parts, [=] __device__(index i, const Lanes& lanes) {
        double total = 0;
        for (index part = lanes.first; part < parts; part += lanes.step) total += partial[i * parts + part];
        total = lanes.sum(total);
        if (lanes.first == 0) out[i] = total;
    });
}

// ------------------------------------------------------------------------------------------- contract_out
namespace {

// Sums N numbers a lane over the 32 lanes. Half of the numbers go to each half of the lanes, and so on: 2 N exchanges at most instead of
// 5 N. Afterwards values[v] of a lane is the sum of number lane * N / 32 + v, or, for fewer numbers than lanes, values[0] that of
// number lane * N / 32.
template <int N, class T>
__device__ void sum_over_lanes(T (&values)[N]) {
    const unsigned lane = threadIdx.x % 32;
    int count = N;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        if (count > 1) {
            count /= 2;
            const bool upper = (lane & unsigned(offset)) != 0;
#pragma unroll
            for (int v = 0; v < count; ++v) {
                const T away = upper ? values[v] : values[v + count], kept = upper ? values[v + count] : values[v];
                values[v] = kept + __shfl_xor_sync(~0u, away, offset);
            }
        } else {
            values[0] += __shfl_xor_sync(~0u, values[0], offset);
        }
    }
}

// A block for J vectors and C rows of one sample: per number of a row J + C loads and J C multiply-adds, J C sums in registers.
template <int J, int C, class T>
__global__ void contract_out_blocks(View<const T> rows, index r, Batch<const T> t, Batch<T> u) {
    T* const shared = shared_memory<T>();
    const index tiles_j = ceil_div(t.count, index(J)), tiles_c = ceil_div(r, index(C)), n = t.first.rows;
    for (index task = blockIdx.x; task < n * tiles_j * tiles_c; task += gridDim.x) {
        // Blocks of one sample follow each other, so that what they share comes from the cache.
        const index i = task / (tiles_j * tiles_c), j0 = task / tiles_c % tiles_j * J, c0 = task % tiles_c * C;
        const T *x[J], *b[C];
        T sums[J * C];
#pragma unroll
        for (int j = 0; j < J; ++j) x[j] = t[at_most(j0 + j, t.count - 1)].row(i);  // the last one again: its sums are not used
#pragma unroll
        for (int c = 0; c < C; ++c) b[c] = rows.row(i * r + at_most(c0 + c, r - 1));
#pragma unroll
        for (int v = 0; v < J * C; ++v) sums[v] = 0;
        for (index q = threadIdx.x; q < rows.cols; q += blockDim.x) {
            T left[J], right[C];
#pragma unroll
            for (int j = 0; j < J; ++j) left[j] = x[j][q];
#pragma unroll
            for (int c = 0; c < C; ++c) right[c] = b[c][q];
#pragma unroll
            for (int j = 0; j < J; ++j)
#pragma unroll
                for (int c = 0; c < C; ++c) sums[j * C + c] += left[j] * right[c];
        }
        sum_over_lanes<J * C>(sums);
        constexpr int kept = J * C > 32 ? J * C / 32 : 1, lanes = J * C > 32 ? 1 : 32 / (J * C);
        const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        if (lane % lanes == 0)
#pragma unroll
            for (int v = 0; v < kept; ++v) shared[warp * (J * C) + lane / lanes * kept + unsigned(v)] = sums[v];
        __syncthreads();
        for (unsigned v = threadIdx.x; v < J * C; v += blockDim.x) {
            const index j = j0 + v / C, c = c0 + v % C;
            if (j >= t.count || c >= r) continue;
            T total = 0;
            for (unsigned w = 0; w < blockDim.x / 32; ++w) total += shared[w * (J * C) + v];
            u[j].row(i)[c] += total;
        }
        __syncthreads();
    }
}

template <int J, int C, class T>
void contract_out_by(Stream stream, View<const T> rows, index r, Batch<const T> t, Batch<T> u) {
    const index tasks = t.first.rows * ceil_div(t.count, index(J)) * ceil_div(r, index(C));
    if (tasks == 0) return;
    const unsigned threads = std::max(32u, power_of_two(rows.cols, block_threads));
    launch<Threads::together>(contract_out_blocks<J, C, T>, dim3(blocks_for(tasks)), dim3(threads), threads / 32 * J * C * sizeof(T),
                              stream, rows, r, t, u);
}

// Vectors and rows that a thread takes together: as many sums as leave room for two blocks on a processor.
constexpr int vectors_at_once = 8;
template <class T>
constexpr int rows_at_once = 32 / sizeof(T);

}  // namespace

// 2 n r m s flops for s vectors; t is read r / rows_at_once times, the rows s / vectors_at_once times, all but once from the cache:
// bound by the w n m (s + r) bytes of one pass where r is small.
template <class T>
void contract_out(Stream stream, View<const T> rows, index r, Batch<const T> t, Batch<T> u) {
    constexpr int J = vectors_at_once, C = rows_at_once<T>;
    if (t.count == 1 && r == 1) return contract_out_by<1, 1>(stream, rows, r, t, u);
    if (t.count == 1) return contract_out_by<1, C>(stream, rows, r, t, u);
    if (r == 1) return contract_out_by<J, 1>(stream, rows, r, t, u);
    contract_out_by<J, C>(stream, rows, r, t, u);
}

// ------------------------------------------------------------------------------------------- contract_in
namespace {

// A thread has 4 numbers of up to J vectors: per row of a sample 4 + J loads, J of them the same for all threads, and 4 J multiply-adds.
template <int J, class T>
void contract_in_by(Stream stream, View<const T> rows, index r, Batch<const T> u, Batch<T> out) {
    const index apart = ceil_div(rows.cols, 4);
    for_elements(stream, ceil_div(u.count, index(J)), out.first.rows, apart, [=] __device__(index tile, index i, index q) {
        const index j0 = tile * J;
        T sums[J][4] = {};
        for (index c = 0; c < r; ++c) {
            const T* const row = rows.row(i * r + c);
            T right[4];
#pragma unroll
            for (int p = 0; p < 4; ++p) right[p] = row[at_most(q + p * apart, rows.cols - 1)];
#pragma unroll
            for (int j = 0; j < J; ++j) {
                const T left = u[at_most(j0 + j, u.count - 1)].row(i)[c];
#pragma unroll
                for (int p = 0; p < 4; ++p) sums[j][p] += left * right[p];
            }
        }
#pragma unroll
        for (int j = 0; j < J; ++j)
#pragma unroll
            for (int p = 0; p < 4; ++p)
                if (j0 + j < u.count && q + p * apart < rows.cols) out[j0 + j].row(i)[q + p * apart] = sums[j][p];
    });
}

}  // namespace

// 2 n r m s flops for s vectors; writes w n m s bytes and reads the rows s / vectors_at_once times, all but once from the cache.
template <class T>
void contract_in(Stream stream, View<const T> rows, index r, Batch<const T> u, Batch<T> out) {
    if (u.count == 1) return contract_in_by<1>(stream, rows, r, u, out);
    contract_in_by<vectors_at_once>(stream, rows, r, u, out);
}

#define GNFAST_INSTANTIATE(T)                                                           \
    template void row_dots(Stream, View<const T>, View<const T>, double*);              \
    template void contract_out(Stream, View<const T>, index, Batch<const T>, Batch<T>); \
    template void contract_in(Stream, View<const T>, index, Batch<const T>, Batch<T>);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
