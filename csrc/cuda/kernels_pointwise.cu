// Steps that touch each number once: bound by memory, the bytes beside each for matrices of N numbers of w bytes.
#include "core/pointwise.hpp"
#include "cuda/kernels.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {

// w N
template <class T>
void fill(Stream stream, View<T> out, T value) {
    for_elements(stream, 1, out.rows, out.cols, [=] __device__(index, index i, index q) { out.row(i)[q] = value; });
}

// 2 w N
template <class S, class T>
void copy(Stream stream, View<const S> in, View<T> out) {
    for_elements(stream, 1, out.rows, out.cols, [=] __device__(index, index i, index q) { out.row(i)[q] = static_cast<T>(in.row(i)[q]); });
}

// 3 w N: value and derivative in one pass.
template <class T, class F>
void apply(Stream stream, F f, View<const T> z, View<T> value, View<T> derivative) {
    for_elements(stream, 1, z.rows, z.cols,
                 [=] __device__(index, index i, index q) { f(z.row(i)[q], value.row(i)[q], derivative.row(i)[q]); });
}

// 2 w N, and d once: its members for the other vectors come from the cache.
template <class T>
void multiply_rows(Stream stream, Batch<T> x, View<const T> d) {
    for_elements(stream, x.count, d.rows, d.cols, [=] __device__(index j, index i, index q) { x[j].row(i)[q] *= d.row(i)[q]; });
}

template <class T>
void multiply_row_groups(Stream stream, View<T> x, View<const T> d, index group) {
    for_elements(stream, d.rows, group, d.cols, [=] __device__(index i, index c, index q) { x.row(i * group + c)[q] *= d.row(i)[q]; });
}

// 2 w N
template <class T>
void add_row(Stream stream, Batch<T> x, Batch<const T> row) {
    for_elements(stream, x.count, x.first.rows, x.first.cols,
                 [=] __device__(index j, index i, index q) { x[j].row(i)[q] += row[j].data[q]; });
}

// 4 w N
template <class T>
void add_product(Stream stream, View<const T> a, View<const T> b, View<T> out) {
    for_elements(stream, 1, out.rows, out.cols, [=] __device__(index, index i, index q) { out.row(i)[q] += a.row(i)[q] * b.row(i)[q]; });
}

template <class T>
void add_diagonal(Stream stream, View<T> out, T value) {
    for_elements(stream, 1, 1, std::min(out.rows, out.cols), [=] __device__(index, index, index i) { out.row(i)[i] += value; });
}

// alpha x + beta y; what is multiplied by 0 is not read.
template <class T>
__device__ T combined(T alpha, const T* x, T beta, const T* y) {
    return (alpha == T(0) ? T(0) : alpha * *x) + (beta == T(0) ? T(0) : beta * *y);
}

// 3 w N
template <class T>
void scale_add(Stream stream, T alpha, View<const T> in, T beta, View<T> out) {
    for_elements(stream, 1, out.rows, out.cols,
                 [=] __device__(index, index i, index q) { out.row(i)[q] = combined(alpha, in.row(i) + q, beta, out.row(i) + q); });
}

template <class T>
void combine_rows(Stream stream, const double* alphas, View<const T> in, const double* betas, View<T> out) {
    for_elements(stream, 1, out.rows, out.cols, [=] __device__(index, index i, index q) {
        out.row(i)[q] = combined(T(alphas[i]), in.row(i) + q, T(betas[i]), out.row(i) + q);
    });
}

template <class T>
void add_rows(Stream stream, double scale, View<const double> factors, View<const T> in, View<T> out) {
    for_elements(stream, 1, out.rows, out.cols,
                 [=] __device__(index, index i, index q) { out.row(i)[q] += T(scale * factors.data[i]) * in.row(i)[q]; });
}

template <class T>
void resize_rows(Stream stream, View<const double> squares, double length, View<T> x) {
    for_elements(stream, 1, x.rows, x.cols, [=] __device__(index, index i, index q) {
        x.row(i)[q] *= T(squares.data[i] > 0 ? length / std::sqrt(squares.data[i]) : 0);
    });
}

#define GNFAST_APPLY(T, F) template void apply(Stream, pointwise::F, View<const T>, View<T>, View<T>);
#define GNFAST_INSTANTIATE(T)                                                                 \
    template void fill(Stream, View<T>, T);                                                   \
    template void copy(Stream, View<const float>, View<T>);                                   \
    template void copy(Stream, View<const double>, View<T>);                                  \
    template void multiply_rows(Stream, Batch<T>, View<const T>);                             \
    template void multiply_row_groups(Stream, View<T>, View<const T>, index);                 \
    template void add_row(Stream, Batch<T>, Batch<const T>);                                  \
    template void add_product(Stream, View<const T>, View<const T>, View<T>);                 \
    template void add_diagonal(Stream, View<T>, T);                                           \
    template void scale_add(Stream, T, View<const T>, T, View<T>);                            \
    template void combine_rows(Stream, const double*, View<const T>, const double*, View<T>); \
    template void add_rows(Stream, double, View<const double>, View<const T>, View<T>);       \
    template void resize_rows(Stream, View<const double>, double, View<T>);                   \
    GNFAST_APPLY(T, Identity)                                                                 \
    GNFAST_APPLY(T, LeakyRelu)                                                                \
    GNFAST_APPLY(T, Tanh)                                                                     \
    GNFAST_APPLY(T, Sigmoid)                                                                  \
    GNFAST_APPLY(T, Gelu)                                                                     \
    GNFAST_APPLY(T, GeluTanh)                                                                 \
    GNFAST_APPLY(T, Silu)                                                                     \
    GNFAST_APPLY(T, Elu)                                                                      \
    GNFAST_APPLY(T, Softplus)

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
