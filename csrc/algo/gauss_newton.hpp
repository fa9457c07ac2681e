// Products with G = (scale) sum_i J_i^T H_i J_i and with the Jacobian, block of samples by block of vectors.
#pragma once

#include <span>

#include "algo/jacobian/jacobian_for.hpp"

namespace gnfast {

// J: one of the models of the Jacobian.
template <JacobianFor J>
class GaussNewton : public J::At {
    using B = typename J::Backend;
    using T = typename J::Value;

   public:
    GaussNewton(const Network<B, T>& network, View<const T> x, Loss loss, View<const T> given, T scale, Method method, double memory_limit)
        : J::At(network, x, loss, given, scale, method, memory_limit, J::plan), method_(method), jacobian_(*this) {}

    J& jacobian() { return jacobian_; }

    // How a block of s vectors is multiplied: few vectors do not always pay for a pass over the kept rows.
    Method method_for(index s) const {
        const Method planned = this->plan().method;
        if (method_ != Method::automatic || planned == Method::usual) return planned;
        return J::rows_pay(this->plan(), s) ? planned : Method::usual;
    }

    // out = G v for each row of v (s, p).
    void apply(View<const T> v, View<T> out) {
        if (method_for(v.rows) != Method::usual) return jacobian_.apply_by_rows(v, out);
        this->for_blocks(v.rows, [&](index j, index s, index i, index n) {
            const Batch<T> u = jacobian_.jvp(v.row_range(j, s), i, n, {});
            this->check_finite(View<const T>(u.first.data, s, n * this->outputs()));
            this->multiply_hessian(i, u);
            jacobian_.vjp(u, i, i == 0 ? T(0) : T(1), out.row_range(j, s), {});
        });
    }

    // u = J v: v (s, p), u (s, n k), no loss and no scale in it. J is that in the part's parameters.
    void jvp(View<const T> v, View<T> u, Part part = {}) {
        const index k = this->outputs();
        this->for_blocks(v.rows, [&](index j, index s, index i, index n) {
            const Batch<T> block = jacobian_.jvp(v.row_range(j, s), i, n, part);
            for (index q = 0; q < s; ++q) this->backend().copy(View<const T>(block[q].data, 1, n * k), u.block(j + q, 1, i * k, n * k));
        });
    }

    // out = J^T u.
    void vjp(View<const T> u, View<T> out, Part part = {}) {
        const index k = this->outputs();
        this->for_blocks(u.rows, [&](index j, index s, index i, index n) {
            const Batch<T> block = jacobian_.cotangents(s, n);
            for (index q = 0; q < s; ++q) this->backend().copy(u.block(j + q, 1, i * k, n * k), View<T>(block[q].data, 1, n * k));
            jacobian_.vjp(block, i, i == 0 ? T(0) : T(1), out.row_range(j, s), part);
        });
    }

    // out (1, p) = diag G
    void diagonal(View<T> out) { jacobian_.diagonal(out); }

    void moments(std::span<const Moments> all) {
        for (const Moments& one : all) this->backend().fill(one.inputs, 0.0), this->backend().fill(one.outputs, 0.0);
        jacobian_.add_moments(all);
    }

   private:
    Method method_;
    J jacobian_;
};

// The Gram (NTK) dual K = (scale) R^T J J^T R, of either model.
template <JacobianFor J>
class Gram;

}  // namespace gnfast
