// What the Gauss-Newton matrix needs of a loss: products with its Hessian H_i in the outputs and a factor H_i = R_i R_i^T.
#pragma once

#include <cmath>

#include "core/pointwise.hpp"
#include "core/types.hpp"

namespace gnfast {

// `blocks` has no formula: its factors R_i are given.
enum class Loss { mse, cross_entropy, binary_cross_entropy, poisson, blocks };

namespace loss {

// Rows of R^T per sample. Softmax has rank k - 1: `reduced` drops its known null direction.
inline index factor_rank(Loss loss, index k, bool reduced) { return loss == Loss::cross_entropy && reduced ? k - 1 : k; }

// What is kept of the outputs f of one sample: softmax probabilities, or the diagonal of H; nothing for mse, H = I.
// What is kept is linear in H: a weight of the sample, or of its outputs where H is diagonal, multiplies it afterwards.
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
    } else if (loss == Loss::poisson) {
        for (index a = 0; a < k; ++a) kept[a] = std::exp(f[a]);
    }
}

// The weight w of a softmax sample, from w p.
template <class T>
GNFAST_HD T sample_weight(const T* kept, index k) {
    T weight = 0;
    for (index a = 0; a < k; ++a) weight += kept[a];
    return weight;
}

// u <- scale H u, from what is kept. Softmax of weight w: w p is kept, H = diag(w p) - (w p)(w p)^T / w.
template <class T>
GNFAST_HD void hessian_product(Loss loss, const T* kept, index k, T scale, T* u) {
    if (loss == Loss::cross_entropy) {
        T mean = 0;
        for (index a = 0; a < k; ++a) mean += kept[a] * u[a];
        const T weight = sample_weight(kept, k);
        if (weight > T(0)) mean /= weight;
        for (index a = 0; a < k; ++a) u[a] = scale * kept[a] * (u[a] - mean);
    } else {
        for (index a = 0; a < k; ++a) u[a] *= kept ? scale * kept[a] : scale;
    }
}

// rows (rank, k) <- sqrt(scale) R^T.
// Softmax: H = w diag(q) (I - q q^T) diag(q), q = sqrt(p), and I - q q^T is a projector: R / sqrt(w) = diag(q) (I - q q^T),
// or, reduced, diag(q) times the columns but t of the Householder reflection that takes e_t to -q:
// v = q + e_t, columns e_c - v q_c / (1 + q_t). With t the likeliest class nothing cancels.
template <class T>
GNFAST_HD void factor_rows(Loss loss, const T* kept, index k, bool reduced, T scale, T* rows) {
    const T root = std::sqrt(scale);
    const bool softmax = loss == Loss::cross_entropy;
    const T weight = softmax ? sample_weight(kept, k) : T(1);
    const T size = weight > T(0) ? std::sqrt(weight) : T(1);  // q is sqrt(kept) / size
    index likeliest = 0;
    for (index a = 1; softmax && a < k; ++a)
        if (kept[a] > kept[likeliest]) likeliest = a;
    T* row = rows;
    for (index c = 0; c < k; ++c) {
        if (softmax && reduced && c == likeliest) continue;
        for (index a = 0; a < k; ++a) {
            T value = a == c ? T(1) : T(0);
            if (softmax) {
                const T qa = std::sqrt(kept[a]) / size, qc = std::sqrt(kept[c]) / size, qt = std::sqrt(kept[likeliest]) / size;
                value -= reduced ? (qa + (a == likeliest ? T(1) : T(0))) * qc / (T(1) + qt) : qa * qc;
            }
            row[a] = kept ? root * value * std::sqrt(kept[a]) : root * value;
        }
        row += k;
    }
}

}  // namespace loss
}  // namespace gnfast
