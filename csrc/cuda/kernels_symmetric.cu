#include <cmath>

#include "core/elimination.hpp"
#include "cuda/kernels_symmetric.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {
namespace {

constexpr int threads = int(block_threads), width = int(cholesky_width);
// One number more a row, so that a column does not lie in one bank of the shared memory.
constexpr int pitch = width + 1;

// Right-looking, one column at a time; one block of threads for the whole matrix.
template <class T>
__global__ void cholesky_block_kernel(T* a, index stride, int n, index before, index* failed) {
    T* const l = shared_memory<T>();
    const int thread = int(threadIdx.x);
    const auto at = [&](int i, int j) -> T& { return l[i * pitch + j]; };
    if (*failed != 0) return;
    for (int e = thread; e < n * n; e += threads)
        if (e % n <= e / n) at(e / n, e % n) = a[(e / n) * stride + e % n];
    __syncthreads();
    for (int j = 0; j < n; ++j) {
        const T pivot = at(j, j);
        if (!(pivot > T(0))) {
            if (thread == 0) *failed = before + j + 1;
            return;  // all threads saw the same pivot
        }
        const T root = std::sqrt(pivot);
        __syncthreads();
        for (int i = j + thread; i < n; i += threads) at(i, j) = i == j ? root : at(i, j) / root;
        __syncthreads();
        const int rest = n - j - 1;
        for (int e = thread; e < rest * rest; e += threads) {
            const int i = j + 1 + e / rest, q = j + 1 + e % rest;
            if (q <= i) at(i, q) -= at(i, j) * at(q, j);
        }
        __syncthreads();
    }
    for (int e = thread; e < n * n; e += threads)
        if (e % n <= e / n) a[(e / n) * stride + e % n] = at(e / n, e % n);
}

// Rows are dealt out to the blocks, and a row's entries up to the diagonal to its threads.
template <class T>
__global__ void asymmetry_kernel(const T* a, index stride, index n, double* out) {
    double* const seen = shared_memory<double>();
    const int thread = int(threadIdx.x);
    double scale = 0, difference = 0, wrong = 0;
    for (index i = index(blockIdx.x); i < n; i += index(gridDim.x))
        for (index j = thread; j <= i; j += threads) {
            const double x = double(a[i * stride + j]), y = double(a[j * stride + i]);
            // A difference of finite numbers; NaN compares false, so that it is looked for by itself.
            if (!(x - x == 0) || !(y - y == 0)) wrong = 1;
            scale = fmax(scale, fmax(fabs(x), fabs(y)));
            difference = fmax(difference, fabs(x - y));
        }
    seen[thread] = scale, seen[threads + thread] = difference, seen[2 * threads + thread] = wrong;
    __syncthreads();
    for (int half = threads / 2; half > 0; half /= 2) {
        for (int what = 0; what < 3 && thread < half; ++what) {
            double* const one = seen + what * threads + thread;
            *one = fmax(*one, one[half]);
        }
        __syncthreads();
    }
    if (thread < 3) out[index(blockIdx.x) * 3 + thread] = seen[thread * threads];
}

// All threads of one block, along rows first.
struct BlockOfThreads {
    static constexpr unsigned across = 32, down = block_threads / across;
    index row = threadIdx.y, row_step = down, col = threadIdx.x, col_step = across;
    __device__ void wait() const { __syncthreads(); }
};

// 54 rows fit into what every block may have.
constexpr std::size_t most_shared = 48 * 1024;
constexpr bool fits(index rows) { return std::size_t(elimination::room(rows)) * sizeof(double) <= most_shared; }

template <class F>
__global__ void elimination_kernel(double* room, F f) {
    f(BlockOfThreads{}, room ? room : shared_memory<double>());
}

template <class F>
void eliminate(Stream stream, double* room, index rows, F f) {
    if (rows == 0) return;
    const bool shared = fits(rows);
    launch<Threads::together>(elimination_kernel<F>, dim3(1), dim3(BlockOfThreads::across, BlockOfThreads::down),
                              shared ? std::size_t(elimination::room(rows)) * sizeof(double) : 0, stream, shared ? nullptr : room, f);
}

}  // namespace

index elimination_room(index rows) { return fits(rows) ? 0 : elimination::room(rows); }

template <class T>
void orthonormal_factor(Stream stream, double* room, View<const T> gram, double floor, double cut, bool drop, View<T> to, View<double> from,
                        View<double> marks) {
    eliminate(stream, room, gram.rows, [=] __device__(const BlockOfThreads& block, double* memory) {
        elimination::orthonormal(block, memory, gram, floor, cut, drop, to, from, marks);
    });
}

template <class T>
void semidefinite_inverse(Stream stream, double* room, View<const T> a, double largest, double rounding, View<T> out, View<double> marks) {
    eliminate(stream, room, a.rows, [=] __device__(const BlockOfThreads& block, double* memory) {
        elimination::inverse(block, memory, a, largest, rounding, out, marks);
    });
}

template <class T>
void cholesky_block(Stream stream, View<T> a, index before, index* failed) {
    launch<Threads::together>(cholesky_block_kernel<T>, dim3(1), dim3(block_threads), width * pitch * sizeof(T), stream, a.data, a.stride,
                              int(a.rows), before, failed);
}

template <class T>
void asymmetry(Stream stream, View<const T> a, double* out) {
    launch<Threads::together>(asymmetry_kernel<T>, dim3(unsigned(asymmetry_rows)), dim3(block_threads), 3 * block_threads * sizeof(double),
                              stream, a.data, a.stride, a.rows, out);
}

#define GNFAST_INSTANTIATE(T)                                                                                                    \
    template void cholesky_block(Stream, View<T>, index, index*);                                                                \
    template void asymmetry(Stream, View<const T>, double*);                                                                     \
    template void orthonormal_factor(Stream, double*, View<const T>, double, double, bool, View<T>, View<double>, View<double>); \
    template void semidefinite_inverse(Stream, double*, View<const T>, double, double, View<T>, View<double>);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
