// What the Gauss-Newton matrix needs of a loss: products with its Hessian H_i in the outputs and a factor H_i = R_i R_i^T.
#pragma once

#include <cmath>

#include "core/group.hpp"
#include "core/pointwise.hpp"
#include "core/types.hpp"

namespace gnfast {

// `blocks` has no formula: its factors R_i are given. Every switch below names each loss, so that a forgotten one does not compile.
enum class Loss { mse, cross_entropy, binary_cross_entropy, poisson, gaussian_nll, blocks };

namespace loss {

inline constexpr Loss all[]{Loss::mse, Loss::cross_entropy, Loss::binary_cross_entropy, Loss::poisson, Loss::gaussian_nll, Loss::blocks};

// What is kept of the outputs: nothing where H = I or is given, roots of the diagonal of H, or of probabilities p, H = diag(p) - p p^T.
enum class Kept { nothing, diagonal, probabilities };

struct Facts {
    const char* name;
    Kept kept;
    const char* overflow = "";  // what overflows, and where, if H is not bounded
};

GNFAST_HD constexpr Facts facts(Loss loss) {
    switch (loss) {
        case Loss::mse:
            return {"mse", Kept::nothing};
        case Loss::cross_entropy:
            return {"cross_entropy", Kept::probabilities};
        case Loss::binary_cross_entropy:
            return {"binary_cross_entropy", Kept::diagonal};
        case Loss::poisson:
            return {"poisson", Kept::diagonal,
                    "the Hessian exp(F) of loss='poisson' overflows at the network's outputs, which are log-rates"};
        case Loss::gaussian_nll:
            return {"gaussian_nll", Kept::diagonal,
                    "the Fisher information exp(-s) of loss='gaussian_nll' overflows at the network's outputs s, which are log-variances"};
        case Loss::blocks:
            return {"blocks", Kept::nothing};
    }
    return {};
}

GNFAST_HD constexpr bool is_softmax(Loss loss) { return facts(loss).kept == Kept::probabilities; }

// Rows of R^T per sample. Softmax has rank k - 1: `reduced` drops its known null direction.
GNFAST_HD inline index factor_rank(Loss loss, index k, bool reduced) { return is_softmax(loss) && reduced ? k - 1 : k; }

// What is kept of the outputs f of one sample. Roots, since the factors of H are made of them, and they reach twice as far before they
// underflow. They are multiplied by the root of a weight of the sample, or of its outputs where H is diagonal, afterwards.
template <class T, class Group = Alone>
GNFAST_HD void prepare(Loss loss, const T* f, index k, T* kept, const Group& group = {}) {
    switch (loss) {
        case Loss::mse:
        case Loss::blocks:
            return;
        case Loss::cross_entropy: {
            T top = f[0];
            for (index a = group.first; a < k; a += group.step) top = f[a] > top ? f[a] : top;
            top = group.most(top);
            T total = 0;
            for (index a = group.first; a < k; a += group.step) {
                kept[a] = std::exp((f[a] - top) / T(2));
                total += kept[a] * kept[a];
            }
            const T size = std::sqrt(group.sum(total));
            for (index a = group.first; a < k; a += group.step) kept[a] /= size;
            return;
        }
        case Loss::binary_cross_entropy:
            for (index a = group.first; a < k; a += group.step) kept[a] = pointwise::sigmoid_root(f[a]);
            return;
        case Loss::poisson:
            for (index a = group.first; a < k; a += group.step) kept[a] = std::exp(f[a] / T(2));
            return;
        case Loss::gaussian_nll:  // of pairs of a mean and a log-variance
            for (index a = group.first; a < k; a += group.step) kept[a] = a % 2 == 0 ? std::exp(f[a + 1] / T(-2)) : std::sqrt(T(0.5));
            return;
    }
}

// The norm sqrt(w) of what is kept of a softmax sample, sqrt(w p).
template <class T, class Group>
GNFAST_HD T sample_size(const T* kept, index k, const Group& group) {
    T weight = 0;
    for (index a = group.first; a < k; a += group.step) weight += kept[a] * kept[a];
    weight = group.sum(weight);
    return weight > T(0) ? std::sqrt(weight) : T(1);
}

// The first of the largest.
template <class T, class Group>
GNFAST_HD index likeliest(const T* kept, index k, const Group& group) {
    index best = 0;
    for (index a = group.first; a < k; a += group.step)
        if (kept[a] > kept[best]) best = a;
    return group.least(kept[best] < group.most(kept[best]) ? k : best);
}

// u <- scale w (diag(p) - p p^T) u. H does not see a shift of u, and relative to the likeliest class t, with d = u - u_t and m = <p, d>,
// (H u)_a = p_a (d_a - m) for the others and minus their sum for t. No 1 - p_t is left, in which a confident sample would lose all its
// digits: p_t has no share in m, and d - m = (I - 1 p^T) d for the others, whose probabilities add up to 1 - 1/k at most, is as well
// conditioned as k allows.
template <class T, class Group>
GNFAST_HD void softmax_product(const T* kept, index k, T scale, T* u, const Group& group) {
    const index t = likeliest(kept, k, group);
    const T size = sample_size(kept, k, group), origin = u[t];
    T mean = 0;
    for (index a = group.first; a < k; a += group.step) {
        const T q = kept[a] / size;
        mean += q * q * (u[a] - origin);
    }
    mean = group.sum(mean);
    T others = 0;
    for (index a = group.first; a < k; a += group.step) {
        if (a == t) continue;
        u[a] = scale * kept[a] * kept[a] * (u[a] - origin - mean);
        others += u[a];
    }
    others = group.sum(others);
    if (t % group.step == group.first) u[t] = -others;
}

// u <- scale H u, from what is kept; without it H = I.
template <class T, class Group = Alone>
GNFAST_HD void hessian_product(Loss loss, const T* kept, index k, T scale, T* u, const Group& group = {}) {
    switch (facts(loss).kept) {
        case Kept::nothing:
        case Kept::diagonal:
            for (index a = group.first; a < k; a += group.step) u[a] *= kept ? scale * kept[a] * kept[a] : scale;
            return;
        case Kept::probabilities:
            return softmax_product(kept, k, scale, u, group);
    }
}

// H = w diag(q) (I - q q^T) diag(q), q = sqrt(p), and I - q q^T is a projector: R / sqrt(w) = diag(q) (I - q q^T),
// or, reduced, diag(q) times the columns but t of the Householder reflection that takes e_t to -q:
// v = q + e_t, columns e_c - v q_c / (1 + q_t). With t the likeliest class nothing cancels, but in 1 - p_t, the sum of the others.
template <class T, class Group>
GNFAST_HD void softmax_rows(const T* kept, index k, bool reduced, T root, T* row, const Group& group) {
    const T size = sample_size(kept, k, group);
    const index t = likeliest(kept, k, group);
    T others = 0;
    if (!reduced) {
        for (index a = group.first; a < k; a += group.step) others += a == t ? T(0) : kept[a] / size * (kept[a] / size);
        others = group.sum(others);
    }
    for (index c = 0; c < k; ++c) {
        if (reduced && c == t) continue;
        for (index a = group.first; a < k; a += group.step) {
            const T qa = kept[a] / size, qc = kept[c] / size, qt = kept[t] / size;
            T value = a == c ? T(1) : T(0);
            if (reduced)
                value = a == t ? -qc : value - qa * qc / (T(1) + qt);
            else
                value = a == t && c == t ? others : value - qa * qc;
            row[a] = root * value * kept[a];
        }
        row += k;
    }
}

// rows (rank, k) <- sqrt(scale) R^T.
template <class T, class Group = Alone>
GNFAST_HD void factor_rows(Loss loss, const T* kept, index k, bool reduced, T scale, T* rows, const Group& group = {}) {
    const T root = std::sqrt(scale);
    switch (facts(loss).kept) {
        case Kept::nothing:
        case Kept::diagonal:
            for (index c = 0; c < k; ++c)
                for (index a = group.first; a < k; a += group.step) {
                    const T value = a == c ? T(1) : T(0);
                    rows[c * k + a] = kept ? root * value * kept[a] : root * value;
                }
            return;
        case Kept::probabilities:
            return softmax_rows(kept, k, reduced, root, rows, group);
    }
}

}  // namespace loss
}  // namespace gnfast
