// The diagonal of the Gauss-Newton matrix, exactly and for less than one product.
#pragma once

#include <algorithm>

#include "algo/gauss_newton.hpp"

namespace gnfast {

// out (1, p). diag G at weight (o, i) is sum over samples and outputs of (b_ic,o a_i,i)^2, so that a layer's share is one product
// (sum_c B_c o B_c)^T (A o A), 2 n fan_in fan_out flops, whatever the number of outputs; a bias has a = 1.
template <class B, class T>
void gauss_newton_diagonal(GaussNewton<B, T>& owner, View<T> out) {
    const auto rows = owner.rows(true);
    const index r = rows->per_sample(), n = owner.samples();
    const Network<B, T>& network = owner.network();
    B& backend = network.backend();
    constexpr index samples = 512;  // the squares of so many at a time
    for (std::size_t l = 0; l < network.layers().size(); ++l) {
        const auto* dense = std::get_if<layers::Dense<T>>(&network.layers()[l]);
        if (!dense) continue;
        const index m = dense->fan_out(), d = dense->fan_in(), most = std::min(n, samples);
        auto buffer = backend.template allocate<T>(most * (m + d));
        const View<T> weight(out.data + dense->offset, m, d), bias(out.data + dense->offset + m * d, 1, m);
        for (index i = 0; i < n; i += most) {
            const index count = std::min(most, n - i);
            const View<T> outer(buffer.data(), count, m), inner(buffer.data() + most * m, count, d);
            const View<const T> a = owner.pass().kept(l).row_range(i, count), b = rows->rows(l).row_range(i * r, count * r);
            backend.fill(outer, T(0)), backend.fill(inner, T(0));
            for (index c = 0; c < r; ++c) {
                const View<const T> one(b.row(c), count, m, r * b.stride);
                backend.add_product(one, one, outer);
            }
            backend.add_product(a, a, inner);
            const T beta = i == 0 ? T(0) : T(1);
            backend.gemm(Op::transpose, Op::none, T(1), View<const T>(outer), View<const T>(inner), beta, weight);
            if (dense->bias) backend.sum_rows(Batch<const T>(View<const T>(outer), 1, 0), beta, Batch<T>(bias, 1, 0));
        }
    }
}

}  // namespace gnfast
