// Hessians of losses: the formulas of core/loss.hpp, a few lanes for each sample's outputs. Each number is read and written once.
#include "core/loss.hpp"
#include "cuda/kernels.hpp"
#include "cuda/loops.cuh"

namespace gnfast::cuda::kernels {

template <class T>
void loss_prepare(Stream stream, Loss loss, View<const T> outputs, View<T> kept) {
    for_rows(stream, outputs.rows, outputs.cols,
             [=] __device__(index i, const Lanes& lanes) { loss::prepare(loss, outputs.row(i), outputs.cols, kept.row(i), lanes); });
}

template <class T>
void loss_hessian(Stream stream, Loss loss, View<const T> kept, T scale, Batch<T> u) {
    const index n = u.first.rows, k = u.first.cols;
    for_rows(stream, u.count * n, k, [=] __device__(index at, const Lanes& lanes) {
        loss::hessian_product(loss, kept.data ? kept.row(at % n) : nullptr, k, scale, u[at / n].row(at % n), lanes);
    });
}

template <class T>
void loss_factor(Stream stream, Loss loss, View<const T> kept, bool reduced, T scale, View<T> rows) {
    const index k = rows.cols, r = loss::factor_rank(loss, k, reduced);
    for_rows(stream, rows.rows / r, k, [=] __device__(index i, const Lanes& lanes) {
        loss::factor_rows(loss, kept.data ? kept.row(i) : nullptr, k, reduced, scale, rows.row(i * r), lanes);
    });
}

#define GNFAST_INSTANTIATE(T)                                             \
    template void loss_prepare(Stream, Loss, View<const T>, View<T>);     \
    template void loss_hessian(Stream, Loss, View<const T>, T, Batch<T>); \
    template void loss_factor(Stream, Loss, View<const T>, bool, T, View<T>);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cuda::kernels
