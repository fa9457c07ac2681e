// M = sum_l P_l (x) R_l, (k r, k r), of symmetric P_l (k, k) and R_l (r, r): what the dual of a linear network is.
#pragma once

#include <mutex>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "core/types.hpp"

namespace gnfast {

template <class B, class T>
class KroneckerSum {
   public:
    // All factors are still to be written, by p(l) and r(l), before the first product.
    KroneckerSum(B& backend, index terms, index k, index r)
        : backend_(backend),
          terms_(terms),
          k_(k),
          r_(r),
          p_all_(backend.template allocate<T>(terms * k * k)),
          r_all_(backend.template allocate<T>(terms * r * r)) {}

    index size() const { return k_ * r_; }
    index terms() const { return terms_; }
    index outputs() const { return k_; }
    index range() const { return r_; }
    View<T> p(index l) { return {p_all_.data() + l * k_ * k_, k_, k_}; }
    View<T> r(index l) { return {r_all_.data() + l * r_ * r_, r_, r_}; }
    View<const T> p(index l) const { return {p_all_.data() + l * k_ * k_, k_, k_}; }
    View<const T> r(index l) const { return {r_all_.data() + l * r_ * r_, r_, r_}; }

    // out_j = sum_l P_l V_j R_l for V_j (k, r) in row j of v: products with the symmetric R_l, packed at the first of them, and k x k
    // ones. 2 L k r (k + r) flops a vector.
    void apply(View<const T> v, View<T> out) {
        {
            const std::lock_guard guard(lock_);
            for (index l = index(packed_.size()); l < terms_; ++l) packed_.emplace_back(std::as_const(*this).r(l));
        }
        backend_.kronecker_sum(View<const T>(p_all_.data(), terms_ * k_, k_), std::span<const Packed>(packed_), v, out);
    }

    // out (r, r) = sum_l (tr P_l / k) R_l: the outputs decouple in the wide limit, and kappa after dividing by
    // I (x) this is at most max_l(k lambda_max(P_l) / tr P_l) / min_l(k lambda_min(P_l) / tr P_l), whatever the data.
    void mean_over_outputs(View<T> out) const {
        const auto diagonals = backend_.template allocate<T>(terms_ * k_);
        for (index l = 0; l < terms_; ++l)
            backend_.copy(View<const T>(p(l).data, k_, 1, k_ + 1), View<T>(diagonals.data() + l * k_, k_, 1));
        std::vector<T> room;
        const View<const T> host = backend_.on_host(View<const T>(diagonals.data(), terms_, k_), room);
        for (index l = 0; l < terms_; ++l) {
            const T trace = std::accumulate(host.row(l), host.row(l) + k_, T(0));
            backend_.scale_add(trace / T(k_), r(l), l == 0 ? T(0) : T(1), out);
        }
    }

   private:
    using Packed = typename B::template packed<T>;

    B& backend_;
    index terms_, k_, r_;
    typename B::template buffer<T> p_all_, r_all_;
    std::vector<Packed> packed_;  // the R_l, from the first product on
    std::mutex lock_;             // of packing: products may come from several threads
};

}  // namespace gnfast
