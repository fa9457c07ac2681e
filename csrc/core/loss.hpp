// What the Gauss-Newton matrix needs of a loss: products with its Hessian H_i in the outputs and a factor H_i = R_i R_i^T.
#pragma once

#include <cmath>

#include "core/pointwise.hpp"
#include "core/types.hpp"

namespace gnfast {

enum class Loss { mse, cross_entropy, binary_cross_entropy };

namespace loss {

// Rows of R^T per sample. Softmax has rank k - 1: `reduced` drops its known null direction.
inline index factor_rank(Loss loss, index k, bool reduced) { return loss == Loss::cross_entropy && reduced ? k - 1 : k; }

// What is kept of the outputs f of one sample: softmax probabilities, sigmoid' , nothing (H = I).
template <class T>
GNFAST_HD void prepare(Loss loss, const T* f, index k, T* kept) {
    if (loss == Loss::cross_entropy) {
        T top = f[0];
        for (index a = 1; a < k; ++a) top = f[a] > top ? f[a] : top;
        T total = 0;
        for (index a = 0; a < k; ++a) total += kept[a] = std::exp(f[a] - top);
        for (index a = 0; a < k; ++a) kept[a] /= total;
    } else if (loss == Loss::binary_cross_entropy) {
        for (index a = 0; a < k; ++a) {
            T value;
            pointwise::Sigmoid{}(f[a], value, kept[a]);
        }
    }
}

// u <- scale H u, from what `prepare` kept.
template <class T>
GNFAST_HD void hessian_product(Loss loss, const T* kept, index k, T scale, T* u) {
    if (loss == Loss::cross_entropy) {
        T mean = 0;
        for (index a = 0; a < k; ++a) mean += kept[a] * u[a];
        for (index a = 0; a < k; ++a) u[a] = scale * kept[a] * (u[a] - mean);
    } else {
        for (index a = 0; a < k; ++a) u[a] *= loss == Loss::mse ? scale : scale * kept[a];
    }
}

// rows (rank, k) <- sqrt(scale) R^T.
// Softmax: H = diag(p) - p p^T = diag(q) (I - q q^T) diag(q), q = sqrt(p), and I - q q^T is a projector:
// R = diag(q) (I - q q^T), or, reduced, diag(q) times the columns but t of the Householder reflection that takes e_t to -q:
// v = q + e_t, columns e_c - v q_c / (1 + q_t). With t the likeliest class nothing cancels.
template <class T>
GNFAST_HD void factor_rows(Loss loss, const T* kept, index k, bool reduced, T scale, T* rows) {
    const T root = std::sqrt(scale);
    const bool softmax = loss == Loss::cross_entropy;
    index likeliest = 0;
    for (index a = 1; softmax && a < k; ++a)
        if (kept[a] > kept[likeliest]) likeliest = a;
    T* row = rows;
    for (index c = 0; c < k; ++c) {
        if (softmax && reduced && c == likeliest) continue;
        for (index a = 0; a < k; ++a) {
            T value = a == c ? T(1) : T(0);
            if (softmax) {
                const T qa = std::sqrt(kept[a]), qc = std::sqrt(kept[c]), qt = std::sqrt(kept[likeliest]);
                value -= reduced ? (qa + (a == likeliest ? T(1) : T(0))) * qc / (T(1) + qt) : qa * qc;
                value *= qa;
            } else if (loss == Loss::binary_cross_entropy) {
                value *= std::sqrt(kept[a]);
            }
            row[a] = root * value;
        }
        row += k;
    }
}

}  // namespace loss
}  // namespace gnfast
