// What the Gauss-Newton matrix needs of a loss: products with its Hessian H_i in the outputs and a factor H_i = R_i R_i^T.
#pragma once

#include <cmath>

#include "core/group.hpp"
#include "core/pointwise.hpp"
#include "core/types.hpp"

namespace gnfast {

// `blocks` has no formula: its factors R_i are given.
enum class Loss { mse, cross_entropy, binary_cross_entropy, poisson, blocks };

namespace loss {

// Rows of R^T per sample. Softmax has rank k - 1: `reduced` drops its known null direction.
GNFAST_HD inline index factor_rank(Loss loss, index k, bool reduced) { return loss == Loss::cross_entropy && reduced ? k - 1 : k; }

// What is kept of the outputs f of one sample: softmax probabilities, or the diagonal of H; nothing for mse, H = I.
// What is kept is linear in H: a weight of the sample, or of its outputs where H is diagonal, multiplies it afterwards.
template <class T, class Group = Alone>
GNFAST_HD void prepare(Loss loss, const T* f, index k, T* kept, const Group& group = {}) {
    if (loss == Loss::cross_entropy) {
        T top = f[0];
        for (index a = group.first; a < k; a += group.step) top = f[a] > top ? f[a] : top;
        top = group.most(top);
        T total = 0;
        for (index a = group.first; a < k; a += group.step) total += kept[a] = std::exp(f[a] - top);
        total = group.sum(total);
        for (index a = group.first; a < k; a += group.step) kept[a] /= total;
    } else if (loss == Loss::binary_cross_entropy) {
        for (index a = group.first; a < k; a += group.step) {
            T value;
            pointwise::Sigmoid{}(f[a], value, kept[a]);
        }
    } else if (loss == Loss::poisson) {
        for (index a = group.first; a < k; a += group.step) kept[a] = std::exp(f[a]);
    }
}

// The weight w of a softmax sample, from w p.
template <class T, class Group>
GNFAST_HD T sample_weight(const T* kept, index k, const Group& group) {
    T weight = 0;
    for (index a = group.first; a < k; a += group.step) weight += kept[a];
    return group.sum(weight);
}

// u <- scale H u, from what is kept. Softmax of weight w: w p is kept, H = diag(w p) - (w p)(w p)^T / w.
template <class T, class Group = Alone>
GNFAST_HD void hessian_product(Loss loss, const T* kept, index k, T scale, T* u, const Group& group = {}) {
    if (loss == Loss::cross_entropy) {
        T mean = 0;
        for (index a = group.first; a < k; a += group.step) mean += kept[a] * u[a];
        mean = group.sum(mean);
        const T weight = sample_weight(kept, k, group);
        if (weight > T(0)) mean /= weight;
        for (index a = group.first; a < k; a += group.step) u[a] = scale * kept[a] * (u[a] - mean);
    } else {
        for (index a = group.first; a < k; a += group.step) u[a] *= kept ? scale * kept[a] : scale;
    }
}

// The first of the largest.
template <class T, class Group>
GNFAST_HD index likeliest(const T* kept, index k, const Group& group) {
    index best = 0;
    for (index a = group.first; a < k; a += group.step)
        if (kept[a] > kept[best]) best = a;
    return group.least(kept[best] < group.most(kept[best]) ? k : best);
}

// rows (rank, k) <- sqrt(scale) R^T.
// Softmax: H = w diag(q) (I - q q^T) diag(q), q = sqrt(p), and I - q q^T is a projector: R / sqrt(w) = diag(q) (I - q q^T),
// or, reduced, diag(q) times the columns but t of the Householder reflection that takes e_t to -q:
// v = q + e_t, columns e_c - v q_c / (1 + q_t). With t the likeliest class nothing cancels.
template <class T, class Group = Alone>
GNFAST_HD void factor_rows(Loss loss, const T* kept, index k, bool reduced, T scale, T* rows, const Group& group = {}) {
    const T root = std::sqrt(scale);
    const bool softmax = loss == Loss::cross_entropy;
    const T weight = softmax ? sample_weight(kept, k, group) : T(1);
    const T size = weight > T(0) ? std::sqrt(weight) : T(1);  // q is sqrt(kept) / size
    const index t = softmax ? likeliest(kept, k, group) : 0;
    T* row = rows;
    for (index c = 0; c < k; ++c) {
        if (softmax && reduced && c == t) continue;
        for (index a = group.first; a < k; a += group.step) {
            T value = a == c ? T(1) : T(0);
            if (softmax) {
                const T qa = std::sqrt(kept[a]) / size, qc = std::sqrt(kept[c]) / size, qt = std::sqrt(kept[t]) / size;
                value -= reduced ? (qa + (a == t ? T(1) : T(0))) * qc / (T(1) + qt) : qa * qc;
            }
            row[a] = kept ? root * value * std::sqrt(kept[a]) : root * value;
        }
        row += k;
    }
}

}  // namespace loss
}  // namespace gnfast
